// Where in the program statements are: addresses and their numbers, visits, and what a place keeps from visit to visit.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ppx_client/address.hpp"
#include "ppx_client/families.hpp"
#include "ppx_client/index.hpp"
#include "ppx_client/prior.hpp"
#include "ppx_client/tensor.hpp"

namespace ppx_client::detail {

struct Given;  // see observations.hpp

/// What sort of statement a site is; each counts its visits apart.
enum class Statement : std::uint8_t { Draw, Observation, Tag, Loop };

/// An entry of the address table.
struct Entry {
    std::string address, name;
    std::uint8_t family;  // number in the schema; 0 for tags, results and rejection loops
    std::vector<std::int32_t> shape;
    std::int32_t number = -1;  // on the wire; -1 until it is mentioned

    bool has_shape(const std::int32_t* extents, std::size_t rank) const {
        return shape.size() == rank && std::equal(shape.begin(), shape.end(), extents);
    }
};

/// Counts visits within a trace, and starts from 0 in the next one.
struct Visits {
    std::uint64_t trace = 0;
    std::int32_t count = 0;

    std::int32_t next(std::uint64_t running) {
        if (trace != running) {
            trace = running;
            count = 0;
        }
        return count++;
    }
};

/// Parameters of one draw, with what was made of them: checked, numbered in the batch's table, normalised.
class KnownParams {
  public:
    std::uint64_t batch = 0;  // in which `number` holds
    std::int32_t number = 0;
    double normaliser = 0.0;

    bool equal(const double* params, std::size_t size) const {
        if (size == 0 || size != params_.size()) return false;  // those of a Categorical without categories are wrong
        for (std::size_t k = 0; k < size; ++k)
            if (!same(params[k], params_[k])) return false;
        return true;
    }

    /// Whether there are parameters, and the one of this number is `value`.
    bool holds(std::size_t k, double value) const { return k < params_.size() && same(params_[k], value); }

    void set(const double* params, std::size_t size) {
        params_.assign(params, params + size);
        batch = 0;
    }

  private:
    /// Bit by bit: -0 is another parameter than 0.
    static bool same(double a, double b) {
        std::uint64_t bits_a, bits_b;
        std::memcpy(&bits_a, &a, sizeof a);
        std::memcpy(&bits_b, &b, sizeof b);
        return bits_a == bits_b;
    }

    std::vector<double> params_;
};

/// One place in the program: a statement, its scopes, its name or call site, and its family.
struct Site {
    Statement statement{};
    Family family{};
    bool is_array = false;
    const ScopeNode* scope = nullptr;
    std::string name;
    CallSite call_site{};  // distinguishes only where there is no name

    Entry* entry = nullptr;
    Visits* visits = nullptr;             // to the address; for observations to the name, over all scopes
    Visits* visits_by_address = nullptr;  // only of observations
    KnownParams params;
    std::uint64_t observations = 0;   // the set of observations to which the next two belong
    const Given* by_name = nullptr;   // what the set gives, or null
    const Given* by_address = nullptr;
};

/// What a statement says of itself.
struct Label {
    std::string_view name;
    const CallSite& call_site;
};

/// All the sites and addresses of a program that a thread has come by.
class Sites {
  public:
    /// The site of a statement; made at the first visit.
    Site& find(Statement statement, Family family, bool is_array, AddressPath& path, const Label& label) {
        const CallSite& place = label.call_site;
        std::uint64_t hash = label.name.empty() ? mix(reinterpret_cast<std::uintptr_t>(place.file.data()),
                                                      static_cast<std::uint64_t>(place.line))
                                                : hash_bytes(label.name);
        const unsigned sort = static_cast<unsigned>(statement) << 8 | static_cast<unsigned>(family) << 1 | is_array;
        hash = mix(hash + sort, reinterpret_cast<std::uintptr_t>(path.scope()));
        Site* const site = index_.find(hash, [&](const Site& site) {
            return site.scope == path.scope() && site.statement == statement && site.family == family &&
                   site.is_array == is_array && site.name == label.name &&
                   (!label.name.empty() ||
                    (site.call_site.line == place.line && site.call_site.file.data() == place.file.data() &&
                     site.call_site.function.data() == place.function.data()));
        });
        return site != nullptr ? *site : add(hash, statement, family, is_array, path, label);
    }

    /// The entry of an address of the model; made if there is none.
    Entry& entry(std::string_view address, std::string_view name, std::uint8_t family, const std::int32_t* shape,
                 std::size_t rank) {
        std::string key = key_of(address, name, family, shape, rank);
        const auto known = entries_.find(key);
        if (known != entries_.end()) return known->second;
        auto node = expected_.extract(key);
        Entry& entry = node.empty() ? entries_.try_emplace(std::move(key)).first->second
                                    : entries_.insert(std::move(node)).position->second;
        entry = {std::string(address), std::string(name), family, {shape, shape + rank}, -1};
        return entry;
    }

    /// What distinguishes an address.
    static std::string key_of(std::string_view address, std::string_view name, std::uint8_t family,
                              const std::int32_t* shape, std::size_t rank) {
        std::string key = joined(address, name);
        key.push_back(static_cast<char>(family));
        if (rank > 0) key.append(reinterpret_cast<const char*>(shape), rank * sizeof *shape);
        return key;
    }

    /// The entry of an address that the model has mentioned, or null.
    const Entry* find_entry(const std::string& key) const {
        const auto known = entries_.find(key);
        return known == entries_.end() ? nullptr : &known->second;
    }

    /// The entry of an address that the model may come to in the running batch. It stays where it is if the model does;
    /// else it is gone when the batch is over: what controllers define takes no memory of ours for long.
    const Entry* expect_entry(const std::string& key) {
        const Entry* const known = find_entry(key);
        return known != nullptr ? known : &expected_[key];
    }

    void forget_expected() { expected_.clear(); }

    /// Sets the entry of a site, whose value has this shape.
    void set_shape(Site& site, const std::int32_t* shape, std::size_t rank) {
        if (site.entry->has_shape(shape, rank)) return;
        site.entry = &entry(site.entry->address, site.entry->name, site.entry->family, shape, rank);
    }

    /// The number of an entry, which from now on is mentioned.
    std::int32_t number(Entry& entry) {
        if (entry.number < 0) {
            entry.number = static_cast<std::int32_t>(mentioned_.size());
            mentioned_.push_back(&entry);
        }
        return entry.number;
    }

    /// The entries that were mentioned, in the order of their numbers.
    const std::vector<const Entry*>& mentioned() const { return mentioned_; }

  private:
    static std::string joined(std::string_view address, std::string_view name) {
        return std::string(address).append(1, '\0').append(name).append(1, '\0');
    }

    Visits* visits_of(char sort, std::string_view address, std::string_view name) {
        return &visits_[joined(address, name) + sort];
    }

    Site& add(std::uint64_t hash, Statement statement, Family family, bool is_array, AddressPath& path,
              const Label& label) {
        const std::string address(path.address(label.name, label.call_site));
        const bool needs_name = statement == Statement::Observation || statement == Statement::Tag;
        const std::string_view name = needs_name && label.name.empty() ? std::string_view(address) : label.name;
        Site site;
        site.statement = statement;
        site.family = family;
        site.is_array = is_array;
        site.scope = path.scope();
        site.name = label.name;
        site.call_site = label.call_site;
        site.entry = &entry(address, name, static_cast<std::uint8_t>(family), nullptr, 0);
        if (statement == Statement::Observation) {
            site.visits = visits_of('n', "", name);
            site.visits_by_address = visits_of('o', address, "");
        } else {
            site.visits = visits_of(statement == Statement::Draw ? 'd' : 't', address, name);
        }
        sites_.push_back(std::move(site));
        index_.insert(hash, sites_.back());
        return sites_.back();
    }

    std::deque<Site> sites_;
    Index<Site> index_;
    std::unordered_map<std::string, Entry> entries_;   // its elements stay where they are
    std::unordered_map<std::string, Entry> expected_;  // so do these, also when they move to the others
    std::unordered_map<std::string, Visits> visits_;
    std::vector<const Entry*> mentioned_;
};

}  // namespace ppx_client::detail
