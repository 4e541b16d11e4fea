"""Whether training and conversion really work here: a tiny training and the converter's own questions, in one child."""
