/* runtime/base/field.h - one table of fields serves the command line, the --help text and the recorded options.
 *
 * A field's flag is its name with '_' shown as '-' ("calib_batchsz" -> --calib-batchsz); both spellings are accepted, as
 * are "--flag value" and "--flag=value". The value that the struct holds before parsing is the default that --help shows.
 */
#ifndef SWIN_BASE_FIELD_H
#define SWIN_BASE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "runtime/base/status.h"

typedef enum swin_field_kind {
    SWIN_FIELD_BOOL,    /* bool: present or not */
    SWIN_FIELD_STR,     /* const char *: points into argv, NULL when absent */
    SWIN_FIELD_INT,     /* int in [lo, hi] */
    SWIN_FIELD_DOUBLE,  /* double in [lo, hi] */
    SWIN_FIELD_CHOICE,  /* const char *: one of `choices`, separated by '|' */
    SWIN_FIELD_LIST,    /* const char *: comma-separated words, each one of `choices` when that is given */
    SWIN_FIELD_PAIRS,   /* swin_pairs: KEY VALUE [KEY VALUE ...] up to the next flag */
    SWIN_FIELD_IGNORED, /* accepted for the sake of old command lines; takes a value if `arg` is set; noted */
    SWIN_FIELD_HEADING  /* a line of text in --help */
} swin_field_kind;

typedef struct swin_pairs {
    int count;          /* pairs */
    const char **words; /* 2 * count words; points into argv */
} swin_pairs;

typedef struct swin_field {
    const char *name;
    swin_field_kind kind;
    size_t offset;       /* of the member in the options struct */
    double lo, hi;       /* INT, DOUBLE: inclusive range */
    const char *arg;     /* what --help calls the value: "N", "FILE"; NULL for BOOL */
    const char *help;    /* one line; range, choices and default are added */
    const char *choices; /* CHOICE, LIST: "a|b|c" */
} swin_field;

/* What a program is: its name, its one-line purpose, its table, and what positional words it takes. */
typedef struct swin_program {
    const char *name, *purpose;
    const swin_field *fields;
    size_t count;
    const char *operands; /* "FILE..." or NULL: no positional words */
} swin_program;

/*
 * Parse argv into *options.
 *
 * operands, noperands   receive the positional words (pointing into argv); may be NULL when the program takes none
 *
 * A table with the field "quiet" has the log set to SWIN_LOG_QUIET before anything is noted, wherever --quiet stands.
 *
 * SWIN_OK; SWIN_ERR_USAGE with a message that names the flag. "--help" prints the usage to stdout and "--version" the
 * version, and both exit 0.
 */
swin_status swin_fields_parse(const swin_program *p, void *options, int argc, char **argv,
                              const char ***operands, int *noperands);

/* The --help text. options holds the defaults. */
void swin_fields_usage(const swin_program *p, const void *options, FILE *out);

/* Options that every program has. */
typedef struct swin_common {
    const char *cfg;    /* --cfg FILE.yaml */
    swin_pairs opts;    /* --opts KEY VALUE ... */
    const char *resume; /* --resume CHECKPOINT */
    const char *map22k; /* --map22k FILE */
    const char *data_path;
    const char *backend; /* "auto", "cuda", "cpu", "ref" */
    int device, threads;
    bool tf32, strict, quiet, verbose, json;
    bool no_head; /* of programs that need no head */
} swin_common;

#define SWIN_COMMON_DEFAULTS                                                                                 \
    {                                                                                                        \
        .backend = "auto"                                                                                    \
    }

/* The rows for a struct T with a member `swin_common common`. */
#define SWIN_FIELD_COMMON(T, member, kind, lo, hi, arg, help, choices)                                       \
    {                                                                                                        \
#member, kind, offsetof(T, common) + offsetof(swin_common, member), lo, hi, arg, help, choices       \
    }
#define SWIN_COMMON_FIELDS(T)                                                                                \
    { "Common options:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },                                    \
        SWIN_FIELD_COMMON(                                                                                   \
            T, cfg, SWIN_FIELD_STR, 0, 0, "FILE",                                                            \
            "model configuration, official YAML; without it, what the checkpoint's tensors determine",       \
            NULL),                                                                                           \
        SWIN_FIELD_COMMON(T, opts, SWIN_FIELD_PAIRS, 0, 0, "KEY VALUE", "override configuration keys",       \
                          NULL),                                                                             \
        SWIN_FIELD_COMMON(T, resume, SWIN_FIELD_STR, 0, 0, "FILE", "checkpoint: .pth or .safetensors",       \
                          NULL),                                                                             \
        SWIN_FIELD_COMMON(T, map22k, SWIN_FIELD_STR, 0, 0, "FILE",                                           \
                          "use these rows of a 22k head: line n names that of class n", NULL),               \
        SWIN_FIELD_COMMON(T, data_path, SWIN_FIELD_STR, 0, 0, "DIR",                                         \
                          "data set: train/ and val/ folders, or train.zip, val.zip and their _map.txt",     \
                          NULL),                                                                             \
        SWIN_FIELD_COMMON(T, backend, SWIN_FIELD_CHOICE, 0, 0, "NAME", "where the network runs",             \
                          "auto|cuda|cpu|ref"),                                                              \
        SWIN_FIELD_COMMON(T, device, SWIN_FIELD_INT, 0, 1023, "N", "GPU number", NULL),                      \
        SWIN_FIELD_COMMON(T, tf32, SWIN_FIELD_BOOL, 0, 0, NULL,                                              \
                          "float32 products round their inputs to TF32 (cuda)", NULL),                       \
        SWIN_FIELD_COMMON(T, threads, SWIN_FIELD_INT, 0, 1024, "N", "CPU threads, 0 for one per processor",  \
                          NULL),                                                                             \
        SWIN_FIELD_COMMON(T, strict, SWIN_FIELD_BOOL, 0, 0, NULL,                                            \
                          "fail on a broken image instead of leaving it out", NULL),                         \
        SWIN_FIELD_COMMON(T, quiet, SWIN_FIELD_BOOL, 0, 0, NULL, "only warnings and errors on stderr",       \
                          NULL),                                                                             \
        SWIN_FIELD_COMMON(T, verbose, SWIN_FIELD_BOOL, 0, 0, NULL, "more detail on stderr", NULL),           \
        SWIN_FIELD_COMMON(T, json, SWIN_FIELD_BOOL, 0, 0, NULL, "results on stdout as JSON", NULL)

/* Old toolkit flags that mean nothing here. */
#define SWIN_LEGACY_FIELDS                                                                                   \
    { "eval", SWIN_FIELD_IGNORED, 0, 0, 0, NULL, "the program's name says what it does", NULL },             \
        { "zip", SWIN_FIELD_IGNORED, 0, 0, 0, NULL, "zip data sets are found by themselves", NULL },         \
        { "local_rank", SWIN_FIELD_IGNORED, 0, 0, 0, "N", "one process drives the job", NULL },              \
    {                                                                                                        \
        "cache_mode", SWIN_FIELD_IGNORED, 0, 0, 0, "MODE", "images are streamed, never cached", NULL         \
    }

/* Apply --quiet, --verbose to the log. */
void swin_common_apply(const swin_common *c);

#endif
