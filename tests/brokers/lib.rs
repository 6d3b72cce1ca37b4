//! Nothing: this member turns features on.
