"""Files and folders of the machine, handled with care: who may read them, how they go, bounds."""
