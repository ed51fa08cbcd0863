"""What ties the cache to the transactions of other libraries. Nothing here is imported by `import cacheside`."""
