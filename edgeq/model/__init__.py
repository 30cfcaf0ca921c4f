"""What is it made of? Models and images as they come in, opened with suspicion.

onnx_file.py reads and writes ONNX; images.py and stream.py read folders and zips of images; preprocess.py turns an
image into a network's input; source.py finds all of that in a directory; components.py says what a graph consists of.
Nothing here runs a model or trusts what a file says about itself.
"""
