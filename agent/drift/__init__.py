"""What recent texts are compared with to recognise drift."""
