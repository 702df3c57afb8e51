"""Changes a model: fine-tuning and edits. Every change can be applied, undone bit for bit, saved and loaded."""
