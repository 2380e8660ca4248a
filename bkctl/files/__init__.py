"""Files and folders of the machine, handled with care: trees removed, small files read."""
