"""``cambox gallery``: one page to look at an output, and a contact sheet."""
