// Patterns of names and addresses, as those of a shell: for draws that a controller leaves to the prior.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "flatbuffers/flatbuffers.h"

namespace ppx_client::detail {

/// The characters of a text in UTF-8; bytes that are none count as characters.
inline std::u32string characters(std::string_view text) {
    std::u32string made;
    for (std::size_t i = 0; i < text.size();) {
        const auto byte = static_cast<unsigned char>(text[i++]);
        const int more = byte < 0xC0 ? 0 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
        char32_t character = more == 0 ? byte : byte & (0x3Fu >> more);
        for (int k = 0; k < more && i < text.size(); ++k)
            character = character << 6 | (static_cast<unsigned char>(text[i++]) & 0x3Fu);
        made.push_back(character);
    }
    return made;
}

/// One pattern: `*` is any text, `?` one character, `[abc]` or `[a-z]` one of a set, `[!abc]` one that is not in it.
class Pattern {
  public:
    explicit Pattern(std::string_view text) : pattern_(characters(text)) {}

    bool matches(const std::u32string& text) const {
        std::size_t p = 0, t = 0, star = none, retry = 0;
        while (t < text.size()) {
            if (p < pattern_.size() && pattern_[p] == U'*') {
                star = p++;
                retry = t;
            } else if (const std::size_t next = p < pattern_.size() ? accept(p, text[t]) : none; next != none) {
                p = next;
                ++t;
            } else if (star != none) {  // the last star takes one more
                p = star + 1;
                t = ++retry;
            } else {
                return false;
            }
        }
        while (p < pattern_.size() && pattern_[p] == U'*') ++p;
        return p == pattern_.size();
    }

  private:
    static constexpr std::size_t none = static_cast<std::size_t>(-1);

    /// Where the pattern goes on if its element at p accepts a character.
    std::size_t accept(std::size_t p, char32_t character) const {
        if (pattern_[p] == U'?') return p + 1;
        if (pattern_[p] == U'[') {
            const std::size_t end = end_of_set(p);
            if (end != none) return in_set(p + 1, end, character) ? end + 1 : none;
        }
        return pattern_[p] == character ? p + 1 : none;
    }

    /// Where the set that begins at p is closed; a bracket at its beginning is one of its characters.
    std::size_t end_of_set(std::size_t p) const {
        std::size_t end = p + 1;
        if (end < pattern_.size() && pattern_[end] == U'!') ++end;
        if (end < pattern_.size() && pattern_[end] == U']') ++end;
        while (end < pattern_.size() && pattern_[end] != U']') ++end;
        return end < pattern_.size() ? end : none;
    }

    bool in_set(std::size_t p, std::size_t end, char32_t character) const {
        const bool is_negative = pattern_[p] == U'!';
        if (is_negative) ++p;
        bool found = false;
        while (p < end) {
            if (p + 2 < end && pattern_[p + 1] == U'-') {
                found |= pattern_[p] <= character && character <= pattern_[p + 2];
                p += 3;
            } else {
                found |= pattern_[p++] == character;
            }
        }
        return found != is_negative;
    }

    std::u32string pattern_;
};

/// What a controller leaves to the prior.
struct Left {
    std::uint64_t number = 0;  // of its Handshake
    std::vector<Pattern> patterns;
    bool omits = false;  // whether draws that are not controlled have no rows

    /// Whether the name, if there is one, or the whole address matches a pattern.
    bool matches(std::string_view address, std::string_view name) const {
        if (patterns.empty()) return false;
        const std::u32string full = characters(address), short_one = characters(name);
        return std::any_of(patterns.begin(), patterns.end(), [&](const Pattern& pattern) {
            return pattern.matches(full) || (!name.empty() && pattern.matches(short_one));
        });
    }

    void read(const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* texts) {
        if (texts == nullptr) return;
        for (const auto* text : *texts) patterns.emplace_back(text->string_view());
    }
};

}  // namespace ppx_client::detail
