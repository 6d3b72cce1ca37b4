//! Wrong twins: code as people write it, a test that shows the harm, and the same scenario passing
//! with the pattern. The three lines `Wrong:`, `Harm:`, `Instead:` of each file feed the book.
