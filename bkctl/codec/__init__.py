"""Byte-level codecs shared by every room: memcomparable keys, varints, CRC-64, timestamps."""
