"""Programs that make sample stores, and the library they and the tests make them with."""
