"""The conformance kit: judges any simulator in any language, by PPX 1.0 or by the batch extension."""
