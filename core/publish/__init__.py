"""An exported model put where others can fetch it: the files that passed, the card, checksums; never a rejected file."""
