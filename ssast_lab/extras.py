"""Packages that only a part of this needs, and how they are installed."""

_EXTRAS = {  # package that is imported -> the extra of ours that has it
    "gradio": "app", "uvicorn": "app", "fastapi": "app", "plotly": "app", "PIL": "app", "kaleido": "pictures",
    "ipywidgets": "notebooks", "anywidget": "notebooks", "IPython": "notebooks", "umap": "map", "pyarrow": "parquet",
    "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "huggingface_hub": "hub",
}  # fmt: skip


def sentence(error: ImportError) -> str:
    """What to do about a package that is not there; "" for one that no extra has."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return ""
    extra = _EXTRAS[package]
    return f"This needs the package {package.lower()}, which is not installed: pip install 'ssast-lab[{extra}]'"
