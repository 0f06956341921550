"""Text templates: job scripts and the skeleton of a plugin package."""
