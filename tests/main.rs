//! Integration tests of the binary: one program, a module an area.
