"""The sweep file: read safely, validated with file and line, and expanded into jobs."""
