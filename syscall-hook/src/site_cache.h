/* Sites remembered by build-id, so that a process start needs no search.
 *
 * One file per module: "sites-BUILDID" in /var/cache/shortfuse (root's, made when root installs; used where it exists)
 * or in $XDG_CACHE_HOME/shortfuse, else $HOME/.cache/shortfuse. A file counts only when its owner and its directory's
 * owner are this user or root, nobody else may write to either, and its checksum fits; and even then every entry that
 * is used is compared with the bytes in memory (sf_site_matches, by the caller). Any doubt: search again.
 *
 * Stored is only into a directory of this user's own, in one of his own, past no symbolic link that he has not made:
 * root with somebody else's HOME (sudo) leaves that alone. */
#ifndef SHORTFUSE_HOOK_SITE_CACHE_H
#define SHORTFUSE_HOOK_SITE_CACHE_H

#include "modules.h"
#include "sites.h"

/* Where the user's own file may be; computed once from the environment. */
struct sf_cache_place {
  uint32_t uid;
  uint16_t above, parent; /* parts by which the directory is made, where they begin in `user`: what has to be there, and
                           * the name in it; in that "shortfuse" */
  char user[4096 - 256];  /* the directory, empty: none; behind it the parts, each terminated */
};
void sf_cache_place_find(char **envp, struct sf_cache_place *place);

/* For one module after the other: both directories, opened when they are needed first. */
struct sf_cache_reader {
  const struct sf_cache_place *place;
  int folder[2]; /* the system's and the user's */
};
void sf_cache_open(struct sf_cache_reader *reader, const struct sf_cache_place *place);
void sf_cache_close(struct sf_cache_reader *reader);

/* Returns how many sites were remembered for the module, or -1. They are not yet compared with the module's text.
 * `sites` holds SF_SITES_MAX. */
int sf_cache_load(struct sf_cache_reader *reader, const struct sf_module *module, struct sf_site *sites);

/* Remembers them; failure is harmless and silent. */
void sf_cache_store(const struct sf_cache_place *place, const struct sf_module *module, const struct sf_site *sites,
                    int count);

/* A small number about a module, in the same places: a symbolic link "raw-BUILDID" whose text ends in it. A directory
 * that nobody else may write to has nobody else's links. -1: none. */
int sf_cache_load_verdict(const struct sf_cache_place *place, const struct sf_module *module);
void sf_cache_store_verdict(const struct sf_cache_place *place, const struct sf_module *module, unsigned verdict);

#endif
