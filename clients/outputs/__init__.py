"""What a fix is written as, a module for each form; `registry` lists them."""
