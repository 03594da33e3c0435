// Addresses: which random choice of the simulator a draw is.
//
// An address is the enclosing scopes and then the draw's name, or its call site if it has none. A call site
// reads `calorimeter_cpp:41:deposit`: file, line and function. The file is relative to the macro
// PPX_SOURCE_ROOT if that is defined (for the whole target) and holds the file, and else only the file's own
// name; so the same source gives the same addresses at every start, on every machine. Two draws without a
// name on one line share the address; the controller counts them as first and second visit. There is no dot
// in a call site: PPX 1.0 controllers use addresses as names of network layers, and PyTorch forbids dots
// there.
#pragma once

#include <charconv>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "ppx_client/index.hpp"

namespace ppx_client {

/// Where in the source a draw is made; the defaulted last argument of sample, observe and tag.
struct CallSite {
    std::string_view file, source_root;
    int line;
    std::string_view function;

#ifdef PPX_SOURCE_ROOT
    static constexpr CallSite current(std::string_view source_root = PPX_SOURCE_ROOT,
#else
    static constexpr CallSite current(std::string_view source_root = {},
#endif
                                      const char* file = __builtin_FILE(), int line = __builtin_LINE(),
                                      const char* function = __builtin_FUNCTION()) {
        return {file, source_root, line, function};
    }
};

namespace detail {

/// The file relative to the source root, or its own name.
inline std::string_view source_path(const CallSite& site) {
    std::string_view root = site.source_root;
    while (!root.empty() && root.back() == '/') root.remove_suffix(1);
    if (!root.empty() && site.file.size() > root.size() && site.file.substr(0, root.size()) == root &&
        site.file[root.size()] == '/')
        return site.file.substr(root.size() + 1);
    return site.file.substr(site.file.find_last_of('/') + 1);
}

inline void append_call_site(std::string& text, const CallSite& site) {
    for (const char c : source_path(site)) text += c == '.' ? '_' : c;
    char digits[16];
    const auto end = std::to_chars(digits, digits + sizeof digits, site.line).ptr;
    // GCC writes the arguments of a function template behind its name, Clang does not.
    text.append(":").append(digits, end).append(":").append(site.function.substr(0, site.function.find('<')));
}

/// What a statement says of itself.
struct Label {
    std::string_view name;
    const CallSite& call_site;
    /// Of a draw that a number is made of: which part it is. Its address is below that of the number, and the name is the
    /// number's.
    std::string_view part = {};

    /// The name in results.
    std::string_view reported_name() const { return part.empty() ? name : std::string_view(); }
};

/// A scope that the thread has been in: a node of a tree, so that a statement finds its scopes in one pointer.
struct ScopeNode {
    const ScopeNode* parent = nullptr;
    std::string name;
    std::string prefix;  // the names down to here, each with a slash behind it
};

/// The scope in which a thread is, and the address being built.
class AddressPath {
  public:
    /// Valid until the next call.
    std::string_view address(std::string_view name, const CallSite& site) {
        text_ = scope_->prefix;
        if (name.empty()) {
            append_call_site(text_, site);
        } else {
            text_.append(name);
        }
        return text_;
    }

    std::string_view address(const Label& label) {
        address(label.name, label.call_site);
        if (!label.part.empty()) text_.append("/").append(label.part);
        return text_;
    }

    const ScopeNode* scope() const { return scope_; }

    void enter(std::string_view name) {
        const std::uint64_t hash = mix(hash_bytes(name), reinterpret_cast<std::uintptr_t>(scope_));
        const ScopeNode* inner = index_.find(
            hash, [&](const ScopeNode& node) { return node.parent == scope_ && node.name == name; });
        if (inner == nullptr) {
            nodes_.push_back({scope_, std::string(name), scope_->prefix + std::string(name) + "/"});
            index_.insert(hash, nodes_.back());
            inner = &nodes_.back();
        }
        scope_ = inner;
    }

    void leave() { scope_ = scope_->parent; }

    /// Goes outside all scopes; returns what `go_back` needs to undo it.
    const ScopeNode* go_out() { return std::exchange(scope_, &root_); }
    void go_back(const ScopeNode* scope) { scope_ = scope; }

  private:
    ScopeNode root_;
    const ScopeNode* scope_ = &root_;
    std::deque<ScopeNode> nodes_;
    Index<const ScopeNode> index_;
    std::string text_;
};

}  // namespace detail
}  // namespace ppx_client
