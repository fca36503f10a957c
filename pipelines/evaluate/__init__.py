"""``mae-cli evaluate``; its protocols are in ``protocols/``, one file each."""
