"""One module per command: options, one call of the library, a rendering. The library is imported when it runs."""
