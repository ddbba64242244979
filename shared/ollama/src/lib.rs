//! ollama
