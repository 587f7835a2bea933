/* The snapshot as JSON, and back.
 *
 * Every key is always present, also when its figure is 0, so that a script needs no "if". Operations and reasons are
 * objects keyed by the names of ops.h; FUSE requests and kinds of record likewise by theirs, in order of opcode. */
#include "shortfuse/metrics/snapshot.h"

#include <nlohmann/json.hpp>

namespace shortfuse::metrics {

using Json = nlohmann::ordered_json;

void Snapshot::set_ops(const ClientTotals &totals) {
  for (unsigned o = 0; o < SF_OP_COUNT; o++) {
    op[o].outcome = totals.op[o].outcome;
    op[o].miss = totals.op[o].miss;
    op[o].served = totals.op[o].served.summary();
    op[o].other = totals.op[o].other.summary();
  }
  bytes_served = totals.bytes_served;
}

void Snapshot::set_fuse(const std::array<FuseTotals, BridgeCounters::kOpcodes> &totals,
                        const char *(*opcode_name)(unsigned)) {
  fuse.clear();
  for (unsigned o = 0; o < totals.size(); o++) {
    const FuseTotals &t = totals[o];
    const char *name = opcode_name(o);
    if (name == nullptr && t.seen == 0) continue;
    fuse.push_back({.name = name != nullptr ? name : o == 0 ? "other" : "opcode_" + std::to_string(o),
                    .seen = t.seen,
                    .served = t.served,
                    .denied = t.denied,
                    .passed = t.passed,
                    .errors = t.errors,
                    .latency = t.latency.summary()});
  }
}

void Snapshot::add_client(int pid, const char *comm, size_t comm_bytes, const ClientTotals &totals) {
  clients.push_back({.pid = pid,
                     .comm = printable(comm, comm_bytes),
                     .served = totals.sum(SF_OUT_SERVED),
                     .denied = totals.sum(SF_OUT_DENIED),
                     .missed = totals.sum(SF_OUT_MISSED),
                     .passed = totals.sum(SF_OUT_PASSED)});
}

namespace {

Json latency_json(const Latency &l) {
  return {{"count", l.count},   {"p50_ns", l.p50_ns},   {"p90_ns", l.p90_ns},
          {"p99_ns", l.p99_ns}, {"p999_ns", l.p999_ns}, {"max_ns", l.max_ns}};
}

Json op_json(const Snapshot::Op &op) {
  Json json;
  for (unsigned i = 0; i < SF_OUT_COUNT; i++) json[sf_outcome_name(i)] = op.outcome[i];
  Json &miss = json["miss"] = Json::object();
  for (unsigned i = SF_MISS_NONE + 1; i < SF_MISS_COUNT; i++) miss[sf_miss_name(i)] = op.miss[i];
  json["latency_served"] = latency_json(op.served);
  json["latency_other"] = latency_json(op.other);
  return json;
}

Json mount_json(const Snapshot::Mount &m) {
  return {{"point", m.point},           {"source", m.source},       {"fstype", m.fstype}, {"daemon_pid", m.daemon_pid},
          {"opener_pid", m.opener_pid}, {"uptime_ns", m.uptime_ns}, {"owner_uid", m.owner_uid}, {"flags", m.flags}};
}

Json policy_json(const Snapshot::Policy &p) {
  Json programs = Json::array();
  for (const auto &program : p.programs) {
    programs.push_back({{"section", program.section}, {"name", program.name}, {"insns", program.insns}});
  }
  return {{"paths", p.paths},
          {"epoch", p.epoch},
          {"swaps", p.swaps},
          {"image", p.native ? "native" : "interpreted"},
          {"why_interpreted", p.why_interpreted},
          {"programs", std::move(programs)}};
}

Json cache_json(const Snapshot::Cache &c) {
  Json kinds = Json::object();
  for (const auto &kind : c.kinds) {
    kinds[kind.name] = {{"records", kind.records}, {"bytes", kind.bytes}, {"fills", kind.fills}};
  }
  return {{"budget_bytes", c.budget_bytes}, {"used_bytes", c.used_bytes},       {"chunks", c.chunks},
          {"index_buckets", c.index_buckets}, {"nodes", c.nodes},               {"refused_fills", c.refused_fills},
          {"evictions", c.evictions},       {"mutations", c.mutations},         {"epoch_bumps", c.epoch_bumps},
          {"kinds", std::move(kinds)}};
}

/// Reading: a key that is absent or of another type leaves the default. A daemon of another version may have sent this.
template <typename T>
void take(const Json &json, const char *key, T &out) {
  const auto it = json.find(key);
  if (it == json.end()) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (it->is_string()) out = it->template get<std::string>();
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    if (!it->is_array()) return;
    for (const auto &item : *it) {
      if (item.is_string()) out.push_back(item.template get<std::string>());
    }
  } else {
    if (it->is_number_unsigned() || it->is_number_integer()) out = it->template get<T>();
  }
}

const Json &object_at(const Json &json, const char *key) {
  static const Json empty = Json::object();
  const auto it = json.find(key);
  return it != json.end() && it->is_object() ? *it : empty;
}

Latency latency_of(const Json &json) {
  Latency l;
  take(json, "count", l.count);
  take(json, "p50_ns", l.p50_ns);
  take(json, "p90_ns", l.p90_ns);
  take(json, "p99_ns", l.p99_ns);
  take(json, "p999_ns", l.p999_ns);
  take(json, "max_ns", l.max_ns);
  return l;
}

Snapshot::Op op_of(const Json &json) {
  Snapshot::Op op;
  for (unsigned i = 0; i < SF_OUT_COUNT; i++) take(json, sf_outcome_name(i), op.outcome[i]);
  const Json &miss = object_at(json, "miss");
  for (unsigned i = SF_MISS_NONE + 1; i < SF_MISS_COUNT; i++) take(miss, sf_miss_name(i), op.miss[i]);
  op.served = latency_of(object_at(json, "latency_served"));
  op.other = latency_of(object_at(json, "latency_other"));
  return op;
}

void read_mount(const Json &json, Snapshot::Mount &m) {
  take(json, "point", m.point);
  take(json, "source", m.source);
  take(json, "fstype", m.fstype);
  take(json, "daemon_pid", m.daemon_pid);
  take(json, "opener_pid", m.opener_pid);
  take(json, "uptime_ns", m.uptime_ns);
  take(json, "owner_uid", m.owner_uid);
  take(json, "flags", m.flags);
}

void read_policy(const Json &json, Snapshot::Policy &p) {
  std::string image;
  take(json, "paths", p.paths);
  take(json, "epoch", p.epoch);
  take(json, "swaps", p.swaps);
  take(json, "image", image);
  take(json, "why_interpreted", p.why_interpreted);
  p.native = image == "native";
  const auto programs = json.find("programs");
  if (programs == json.end() || !programs->is_array()) return;
  for (const auto &item : *programs) {
    if (!item.is_object()) continue;
    Snapshot::Program &program = p.programs.emplace_back();
    take(item, "section", program.section);
    take(item, "name", program.name);
    take(item, "insns", program.insns);
  }
}

void read_fuse(const Json &json, std::vector<Snapshot::FuseOp> &fuse) {
  for (const auto &[name, value] : json.items()) {
    if (!value.is_object()) continue;
    Snapshot::FuseOp &op = fuse.emplace_back();
    op.name = name;
    take(value, "seen", op.seen);
    take(value, "served", op.served);
    take(value, "denied", op.denied);
    take(value, "passed", op.passed);
    take(value, "errors", op.errors);
    op.latency = latency_of(object_at(value, "latency"));
  }
}

void read_cache(const Json &json, Snapshot::Cache &c) {
  take(json, "budget_bytes", c.budget_bytes);
  take(json, "used_bytes", c.used_bytes);
  take(json, "chunks", c.chunks);
  take(json, "index_buckets", c.index_buckets);
  take(json, "nodes", c.nodes);
  take(json, "refused_fills", c.refused_fills);
  take(json, "evictions", c.evictions);
  take(json, "mutations", c.mutations);
  take(json, "epoch_bumps", c.epoch_bumps);
  for (const auto &[name, value] : object_at(json, "kinds").items()) {
    if (!value.is_object()) continue;
    Snapshot::CacheKind &kind = c.kinds.emplace_back();
    kind.name = name;
    take(value, "records", kind.records);
    take(value, "bytes", kind.bytes);
    take(value, "fills", kind.fills);
  }
}

void read_clients(const Json &json, std::vector<Snapshot::Client> &clients) {
  const auto list = json.find("clients");
  if (list == json.end() || !list->is_array()) return;
  for (const auto &item : *list) {
    if (!item.is_object()) continue;
    Snapshot::Client &client = clients.emplace_back();
    take(item, "pid", client.pid);
    take(item, "comm", client.comm);
    take(item, "served", client.served);
    take(item, "denied", client.denied);
    take(item, "missed", client.missed);
    take(item, "passed", client.passed);
  }
}

}  // namespace

std::string to_json(const Snapshot &s) {
  Json json;
  json["format"] = kSnapshotFormat;
  json["version"] = s.version;
  json["mount"] = mount_json(s.mount);
  json["policy"] = policy_json(s.policy);
  Json &ops = json["ops"] = Json::object();
  for (unsigned o = 0; o < SF_OP_COUNT; o++) ops[sf_op_name(o)] = op_json(s.op[o]);
  json["bytes_served"] = s.bytes_served;
  Json &fuse = json["fuse"] = Json::object();
  for (const auto &op : s.fuse) {
    fuse[op.name] = {{"seen", op.seen},     {"served", op.served}, {"denied", op.denied},
                     {"passed", op.passed}, {"errors", op.errors}, {"latency", latency_json(op.latency)}};
  }
  json["cache"] = cache_json(s.cache);
  Json &clients = json["clients"] = Json::array();
  for (const auto &c : s.clients) {
    clients.push_back({{"pid", c.pid}, {"comm", c.comm}, {"served", c.served}, {"denied", c.denied},
                       {"missed", c.missed}, {"passed", c.passed}});
  }
  json["clients_gone"] = s.clients_gone;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::expected<Snapshot, std::string> from_json(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return std::unexpected("the answer is not JSON");
  if (!json.is_object()) return std::unexpected("the answer is not a JSON object");
  int format = 0;
  take(json, "format", format);
  if (format != kSnapshotFormat) {
    return std::unexpected("the daemon's status has format " + std::to_string(format) + ", this command reads format " +
                           std::to_string(kSnapshotFormat));
  }
  Snapshot s;
  take(json, "version", s.version);
  read_mount(object_at(json, "mount"), s.mount);
  read_policy(object_at(json, "policy"), s.policy);
  const Json &ops = object_at(json, "ops");
  for (unsigned o = 0; o < SF_OP_COUNT; o++) s.op[o] = op_of(object_at(ops, sf_op_name(o)));
  take(json, "bytes_served", s.bytes_served);
  read_fuse(object_at(json, "fuse"), s.fuse);
  read_cache(object_at(json, "cache"), s.cache);
  read_clients(json, s.clients);
  take(json, "clients_gone", s.clients_gone);
  return s;
}

}  // namespace shortfuse::metrics
