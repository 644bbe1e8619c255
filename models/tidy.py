"""What the export scripts share."""
import onnx


def drop_traces(path):
    """Removes the metadata that torch.onnx attaches to nodes and values (source lines, stack traces with file paths), which is
    a third of a small file and says nothing about the model."""
    model = onnx.load(path)
    del model.graph.metadata_props[:]
    for part in (model.graph.node, model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer):
        for item in part:
            item.doc_string = ""
            del item.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)
