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
  char user[4096 - 256];  /* directory, empty: none. Behind it, each terminated, the parts by which it is made: */
  uint16_t above, parent; /* where they begin: what has to be there, and the name in it; in that "shortfuse" */
  uint32_t uid;
};
void sf_cache_place_find(char **envp, struct sf_cache_place *place);

/* Returns how many sites were remembered for the module, or -1. They are not yet compared with the module's text.
 * `sites` holds SF_SITES_MAX. */
int sf_cache_load(const struct sf_cache_place *place, const struct sf_module *module, struct sf_site *sites);

/* Remembers them; failure is harmless and silent. */
void sf_cache_store(const struct sf_cache_place *place, const struct sf_module *module, const struct sf_site *sites,
                    int count);

/* A small number about a module, in the same places: a symbolic link "raw-BUILDID" whose text ends in it. A directory
 * that nobody else may write to has nobody else's links. -1: none. */
int sf_cache_load_verdict(const struct sf_cache_place *place, const struct sf_module *module);
void sf_cache_store_verdict(const struct sf_cache_place *place, const struct sf_module *module, unsigned verdict);

#endif
