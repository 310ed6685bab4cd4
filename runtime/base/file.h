/* runtime/base/file.h - files whole or absent (DESIGN.md rule 4), and read-only maps. */
#ifndef SWIN_BASE_FILE_H
#define SWIN_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/status.h"

/* A file mapped read-only. Closing it makes every pointer into it invalid. */
typedef struct swin_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
    void *owner; /* internal */
} swin_map;

/* Map the regular file at path. SWIN_ERR_IO names the path and the system's reason. */
swin_status swin_map_open(swin_map *m, const char *path);
void swin_map_close(swin_map *m); /* a zeroed map is fine */
/* These bytes have been read for the last time: their pages stop counting as this program's memory. Reading them again is
 * right, and slower. Bytes outside the map are ignored. */
void swin_map_drop(const swin_map *m, const void *data, size_t size);

/*
 * An output file that appears under its name only when it is complete: written as "<path>.tmp", flushed to the disk,
 * renamed.
 */
typedef struct swin_outfile {
    FILE *f;    /* write here; NULL once finished */
    char *path; /* owned: the final name */
    char *tmp;  /* owned: path.tmp */
} swin_outfile;

swin_status swin_outfile_open(swin_outfile *o, const char *path);
/* Flush, check, rename. On failure the temporary file is gone and the old file, if any, untouched. */
swin_status swin_outfile_commit(swin_outfile *o);
/* All of them or, when one cannot be completed, none: every file is on the disk before the first takes its name. */
swin_status swin_outfile_commit_all(swin_outfile *files, size_t count);
/* Throw away what was written. Fine after commit and on a zeroed struct. */
void swin_outfile_discard(swin_outfile *o);

/* The same in one call. */
swin_status swin_write_file(const char *path, const void *data, size_t size);

/* For writers that need a file name of their own (HDF5): rename tmp to path after flushing it to the disk; on failure
 * tmp is removed. */
swin_status swin_commit_tmp(const char *tmp, const char *path);

/* The whole file, NUL-terminated, owned by the caller. */
swin_status swin_read_file(const char *path, unsigned char **data, size_t *size);

bool swin_is_dir(const char *path);
bool swin_is_file(const char *path);

/* printf into new memory owned by the caller; NULL when there is none. */
char *swin_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Ctrl-C: after swin_catch_interrupts(), SIGINT and SIGTERM only set a flag, which long loops ask for and turn into
 * SWIN_ERR_INTERRUPTED. A second signal ends the process at once. */
void swin_catch_interrupts(void);
swin_status swin_check_interrupt(void);

#endif
