// {"pid":1,"comm":"find","mounts":1,"hints":3,"bytes_served":0,"total":{"served":..},"ops":{"stat":{"served":5,...,
//  "miss":{"attr":1}}}}
// Every operation is listed, also at zero, so that readers need no special case. One write with O_APPEND: lines of
// processes that exit together do not mix.
#include "report.h"

#include "attach.h"
#include "kernel.h"
#include "text.h"

namespace shortfuse::bypass {

constexpr size_t kReportBytes = 65536;

namespace {

struct Totals {
  uint64_t bytes_served;
  uint64_t count[SF_OP_COUNT][SF_OUT_COUNT];
  uint64_t miss[SF_OP_COUNT][SF_MISS_COUNT];
};

void add(Totals *to, const sf_lane &from) {
  to->bytes_served += from.bytes_served;
  for (unsigned op = 0; op < SF_OP_COUNT; ++op) {
    for (unsigned i = 0; i < SF_OUT_COUNT; ++i) to->count[op][i] += from.count[op][i];
    for (unsigned i = 0; i < SF_MISS_COUNT; ++i) to->miss[op][i] += from.miss[op][i];
  }
}

void total(Totals *to, const Process &process) {
  add(to, process.own);
  for (const Link &link : process.link) {
    if (link.session == nullptr) continue;
    for (const sf_lane &lane : link.session->lane) add(to, lane);
  }
}

void key(Text *out, bool *first, const char *name) {
  if (!*first) out->put(',');
  *first = false;
  out->json(name, text_len(name)).put(':');
}

void write_op(Text *out, const Totals &totals, unsigned op) {
  bool first = true;
  out->put('{');
  for (unsigned i = 0; i < SF_OUT_COUNT; ++i) {
    key(out, &first, sf_outcome_name(i));
    out->num(totals.count[op][i]);
  }
  key(out, &first, "miss");
  out->put('{');
  first = true;
  for (unsigned i = 1; i < SF_MISS_COUNT; ++i) {
    if (totals.miss[op][i] == 0) continue;
    key(out, &first, sf_miss_name(i));
    out->num(totals.miss[op][i]);
  }
  out->add("}}");
}

void write_json(Text *out, const Totals &totals, const Process &process) {
  char comm[16] = {};
  SF_SYS2(__NR_prctl, PR_GET_NAME, comm);
  out->add("{\"pid\":").num(process.pid).add(",\"comm\":").json(comm, sizeof comm);
  out->add(",\"mounts\":").num(process.mounts_seen).add(",\"hints\":").num(process.hints);
  out->add(",\"bytes_served\":").num(totals.bytes_served).add(",\"total\":{");
  bool first = true;
  for (unsigned i = 0; i < SF_OUT_COUNT; ++i) {
    uint64_t sum = 0;
    for (unsigned op = 0; op < SF_OP_COUNT; ++op) sum += totals.count[op][i];
    key(out, &first, sf_outcome_name(i));
    out->num(sum);
  }
  out->add("},\"ops\":{");
  first = true;
  for (unsigned op = 0; op < SF_OP_COUNT; ++op) {
    key(out, &first, sf_op_name(op));
    write_op(out, totals, op);
  }
  out->add("}}\n");
}

void expand_path(Text *out, const char *pattern, uint32_t pid) {
  for (const char *p = pattern; *p != 0; ++p) {
    if (p[0] == '%' && p[1] == 'p') {
      out->num(pid);
      ++p;
    } else {
      out->put(*p);
    }
  }
}

}  // namespace

void write_report() {
  if (g.options.report_path[0] == 0 || g.filtered) return;
  Process *process = process_now();
  if (process == nullptr || __atomic_exchange_n(&process->reported, 1u, __ATOMIC_ACQ_REL) != 0) return;
  auto *room = static_cast<char *>(map_anonymous(kReportBytes + sizeof(Totals)));
  if (room == nullptr) return;
  auto *totals = reinterpret_cast<Totals *>(room + kReportBytes);
  total(totals, *process);
  char path[kReportPathMax + 32];
  Text path_text(path, sizeof path);
  expand_path(&path_text, g.options.report_path, process->pid);
  Text out(room, kReportBytes);
  write_json(&out, *totals, *process);
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (!is_error(fd)) {
    SF_SYS3(__NR_write, fd, room, out.len());
    close_fd(static_cast<int>(fd));
  }
  unmap(room, kReportBytes + sizeof(Totals));
}

}  // namespace shortfuse::bypass
