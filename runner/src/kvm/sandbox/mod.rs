//! Keeps a compromised monitor away from the host.
