"""The sections of a report: each is a function from a bundle's contents to blocks, and knows no markup."""
