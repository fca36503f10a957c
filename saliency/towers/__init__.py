"""CLIP models as saliency reads them: image tower, texts, input size, the layer where the graph is cut.

Imported by ``saliency.methods``, never the other way.
"""
