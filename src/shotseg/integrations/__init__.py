"""Shotseg inside the tools in which people label: one file a tool."""
