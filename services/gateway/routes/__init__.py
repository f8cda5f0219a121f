"""The HTTP routes, one module for each group. They only convert between HTTP and the parts."""
