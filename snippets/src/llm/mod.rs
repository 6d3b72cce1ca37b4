//! LLM token streaming.
