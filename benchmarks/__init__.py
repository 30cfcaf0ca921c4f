"""edgeq and its peers side by side; `README.md` tells what is measured and how."""
