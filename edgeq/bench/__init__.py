"""Speed of a bundle on the machine that it is for, beside what the machine allows at the most."""
