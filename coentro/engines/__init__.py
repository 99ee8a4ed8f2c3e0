"""Starting what moves a tunnel's packets, without privileges. Standard library alone."""
