"""Names that a command line lists and completes, apart from what they name, which needs torch or numpy."""

METHOD_NAMES = (
    *("gradcam", "grad-eclip", "legrad", "clip-es", "naclip"),
    *("gradcam++", "layercam", "hirescam", "xgradcam", "eigengradcam", "scorecam"),
)
"""The methods a saliency map can be made by: the rows of :data:`saliency.methods.methods.METHODS`."""

MOTION_METHODS = ("motion", "frame-difference")
"""The methods that read the motion of a video, and no CLIP."""

OWN_WEIGHTS = ("hf-hub:", "local-dir:")
"""How the names of CLIP models begin that bring their weights along."""

FIGURES = ("pointing", "energy", "iou", "auc")
"""The figures that need true masks; see :mod:`saliency.quality`."""

COMPARED = (
    "on boxes in photos, with small CLIPs, hirescam pointed best (0.67; gradcam 0.53 and 0.55, a centre prior 0.80), "
    "legrad followed the caption most; on scenes gradcam had 0.96, hirescam, layercam and legrad 0.97 "
    "(docs/results/maps.md)"
)
"""What the methods were measured to be worth, in a sentence that ``inspect`` shows beside the method used."""
