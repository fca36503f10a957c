"""Names that a command line lists and completes, apart from what they name, which needs torch or numpy."""

METHOD_NAMES = (
    *("gradcam", "grad-eclip", "legrad", "clip-es", "naclip"),
    *("gradcam++", "layercam", "hirescam", "xgradcam", "eigengradcam", "scorecam"),
)
"""The methods a saliency map can be made by: the rows of :data:`saliency.methods.methods.METHODS`."""

OWN_WEIGHTS = ("hf-hub:", "local-dir:")
"""How the names of CLIP models begin that bring their weights along."""

FIGURES = ("pointing", "energy", "iou", "auc")
"""The figures that need true masks; see :mod:`saliency.quality`."""
