"""The commands: one file each; reads options, calls the library, shows the result."""
