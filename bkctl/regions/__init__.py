"""Region maps, and the plan of backup ranges made from them."""
