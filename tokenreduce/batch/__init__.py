"""Many files, many questions: asked durably, resumed, on one GPU, several, or a cluster."""
