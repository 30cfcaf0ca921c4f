"""Small changes of a graph that leave what it computes as it is."""
