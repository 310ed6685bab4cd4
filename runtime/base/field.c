#include "runtime/base/field.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"

/* Length of the first word of a '|'-separated list. */
static size_t word_length(const char *words)
{
    return strcspn(words, "|");
}

static bool listed(const char *choices, const char *word, size_t n)
{
    for (const char *c = choices; *c; c += word_length(c) + (c[word_length(c)] == '|'))
        if (word_length(c) == n && strncmp(c, word, n) == 0) return true;
    return false;
}

/* Does the word of length n name the field? '-' and '_' are the same. */
static bool names(const char *word, size_t n, const char *field)
{
    if (strlen(field) != n) return false;
    for (size_t i = 0; i < n; i++) {
        const char a = word[i] == '_' ? '-' : word[i], b = field[i] == '_' ? '-' : field[i];
        if (a != b) return false;
    }
    return true;
}

static const swin_field *find_field(const swin_program *p, const char *word, size_t n)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->fields[i].kind != SWIN_FIELD_HEADING && names(word, n, p->fields[i].name))
            return &p->fields[i];
    return NULL;
}

static void flag_name(const swin_field *f, char *out, size_t size)
{
    snprintf(out, size, "--%s", f->name);
    /* --local_rank is spelt so by the toolkit whose flag it was; everything else takes dashes. */
    for (char *c = out; f->kind != SWIN_FIELD_IGNORED && *c; c++)
        if (*c == '_') *c = '-';
}

static swin_status parse_number(const swin_field *f, const char *flag, const char *value, double *v)
{
    char *end = NULL;
    errno = 0;
    if (f->kind == SWIN_FIELD_INT) {
        const long long whole = strtoll(value, &end, 10);
        if (end == value || *end || errno)
            return swin_fail(SWIN_ERR_USAGE, "%s %s: not a whole number", flag, value);
        *v = (double)whole;
    } else {
        *v = strtod(value, &end);
        if (end == value || *end || *v != *v)
            return swin_fail(SWIN_ERR_USAGE, "%s %s: not a number", flag, value);
    }
    if (*v < f->lo || *v > f->hi)
        return swin_fail(SWIN_ERR_USAGE, "%s %s: out of range, takes %.15g to %.15g", flag, value, f->lo,
                         f->hi);
    return SWIN_OK;
}

static swin_status check_list(const swin_field *f, const char *flag, const char *value)
{
    for (const char *w = value;; w += strcspn(w, ",") + 1) {
        const size_t n = strcspn(w, ",");
        if (n == 0) return swin_fail(SWIN_ERR_USAGE, "%s %s: an empty word in the list", flag, value);
        if (f->choices && !listed(f->choices, w, n))
            return swin_fail(SWIN_ERR_USAGE, "%s: unknown '%.*s', takes %s", flag, (int)n, w, f->choices);
        if (!w[n]) return SWIN_OK;
    }
}

static swin_status store(const swin_field *f, const char *flag, const char *value, char *at)
{
    double v = 0;
    switch (f->kind) {
    case SWIN_FIELD_INT:
        SWIN_TRY(parse_number(f, flag, value, &v));
        *(int *)(void *)at = (int)v;
        return SWIN_OK;
    case SWIN_FIELD_DOUBLE:
        SWIN_TRY(parse_number(f, flag, value, &v));
        *(double *)(void *)at = v;
        return SWIN_OK;
    case SWIN_FIELD_CHOICE:
        if (!listed(f->choices, value, strlen(value)))
            return swin_fail(SWIN_ERR_USAGE, "%s %s: takes one of %s", flag, value, f->choices);
        break;
    case SWIN_FIELD_LIST:
        SWIN_TRY(check_list(f, flag, value));
        break;
    default:
        break;
    }
    if (!*value) return swin_fail(SWIN_ERR_USAGE, "%s: empty value", flag);
    *(const char **)(void *)at = value;
    return SWIN_OK;
}

/* KEY VALUE [KEY VALUE ...] up to the next flag. A second --opts adds to the first. */
static swin_status take_pairs(const char *flag, swin_pairs *pairs, int argc, char **argv, int *i)
{
    int n = 0;
    while (*i + 1 + n < argc && strncmp(argv[*i + 1 + n], "--", 2) != 0) n++;
    if (n == 0 || n % 2) return swin_fail(SWIN_ERR_USAGE, "%s: takes KEY VALUE pairs, got %d words", flag, n);
    const char **words = realloc(pairs->words, (size_t)(2 * pairs->count + n) * sizeof *words);
    if (!words) return swin_fail(SWIN_ERR_MEM, "%s: no memory", flag);
    for (int k = 0; k < n; k++) words[2 * pairs->count + k] = argv[*i + 1 + k];
    *pairs = (swin_pairs){ .count = pairs->count + n / 2, .words = words };
    *i += n;
    return SWIN_OK;
}

static swin_status parse_flag(const swin_program *p, void *options, int argc, char **argv, int *i)
{
    const char *word = argv[*i] + 2, *equals = strchr(word, '=');
    const size_t n = equals ? (size_t)(equals - word) : strlen(word);
    const swin_field *f = find_field(p, word, n);
    if (!f)
        return swin_fail(SWIN_ERR_USAGE, "--%.*s: unknown flag (%s --help lists them)", (int)n, word,
                         p->name);
    char flag[64];
    flag_name(f, flag, sizeof flag);
    char *at = (char *)options + f->offset;
    if (f->kind == SWIN_FIELD_PAIRS && !equals)
        return take_pairs(flag, (swin_pairs *)(void *)at, argc, argv, i);
    if (!f->arg) {
        if (equals) return swin_fail(SWIN_ERR_USAGE, "%s: takes no value", flag);
        if (f->kind == SWIN_FIELD_IGNORED)
            swin_note("note: %s has no effect here: %s", flag, f->help);
        else
            *(bool *)(void *)at = true;
        return SWIN_OK;
    }
    const char *value = equals ? equals + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    /* "-1" may be a number, but "--x" is the next flag: the value was forgotten. */
    if (!value || (!equals && strncmp(value, "--", 2) == 0))
        return swin_fail(SWIN_ERR_USAGE, "%s: needs a value", flag);
    if (f->kind == SWIN_FIELD_PAIRS)
        return swin_fail(SWIN_ERR_USAGE, "%s: write it as %s KEY VALUE", flag, flag);
    if (f->kind == SWIN_FIELD_IGNORED) {
        swin_note("note: %s %s has no effect here: %s", flag, value, f->help);
        return SWIN_OK;
    }
    return store(f, flag, value, at);
}

static void help_and_leave(const swin_program *p, const void *options, const char *word)
{
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        swin_fields_usage(p, options, stdout);
    else if (strcmp(word, "--version") == 0)
        printf("%s %s\n", p->name, SWIN_VERSION);
    else
        return;
    exit(fflush(stdout) == 0 ? 0 : 1);
}

swin_status swin_fields_parse(const swin_program *p, void *options, int argc, char **argv,
                              const char ***operands, int *noperands)
{
    static const char *none[1];
    const char **words = none;
    int nwords = 0;
    for (int i = 1; i < argc; i++) help_and_leave(p, options, argv[i]); /* with the defaults still in place */
    for (int i = 1; i < argc; i++) /* first of all: it silences what is said of other flags */
        if (strcmp(argv[i], "--quiet") == 0 && find_field(p, "quiet", 5)) swin_log_set(SWIN_LOG_QUIET);
    if (operands) {
        words = calloc((size_t)argc, sizeof *words);
        if (!words) return swin_fail(SWIN_ERR_MEM, "no memory for the command line");
    }
    for (int i = 1; i < argc; i++) {
        swin_status st = SWIN_OK;
        if (strncmp(argv[i], "--", 2) == 0 && argv[i][2])
            st = parse_flag(p, options, argc, argv, &i);
        else if (argv[i][0] == '-' && argv[i][1])
            st = swin_fail(SWIN_ERR_USAGE, "%s: unknown flag (%s --help lists them)", argv[i], p->name);
        else if (operands)
            words[nwords++] = argv[i];
        else
            st = swin_fail(SWIN_ERR_USAGE, "%s: unexpected word (%s takes flags only)", argv[i], p->name);
        if (st != SWIN_OK) {
            if (operands) free(words);
            return st;
        }
    }
    if (operands) {
        *operands = words;
        *noperands = nwords;
    }
    return SWIN_OK;
}

static void print_default(const swin_field *f, const char *at, FILE *out)
{
    if (f->kind == SWIN_FIELD_INT || f->kind == SWIN_FIELD_DOUBLE) {
        fprintf(out, " [%.15g to %.15g", f->lo, f->hi);
        if (f->kind == SWIN_FIELD_INT)
            fprintf(out, ", default %d]", *(const int *)(const void *)at);
        else
            fprintf(out, ", default %.15g]", *(const double *)(const void *)at);
        return;
    }
    if (f->choices) fprintf(out, " [%s", f->choices);
    const bool text = f->kind == SWIN_FIELD_STR || f->kind == SWIN_FIELD_CHOICE || f->kind == SWIN_FIELD_LIST;
    const char *value = text ? *(const char *const *)(const void *)at : NULL;
    if (value)
        fprintf(out, "%sdefault %s]", f->choices ? ", " : " [", value);
    else if (f->kind == SWIN_FIELD_BOOL)
        fputs(" [default off]", out);
    else if (f->choices)
        fputs("]", out);
    else if (text || f->kind == SWIN_FIELD_PAIRS)
        fputs(" [default none]", out);
}

void swin_fields_usage(const swin_program *p, const void *options, FILE *out)
{
    fprintf(out, "%s - %s\n\nusage: %s [flags]%s%s\n", p->name, p->purpose, p->name, p->operands ? " " : "",
            p->operands ? p->operands : "");
    for (size_t i = 0; i < p->count; i++) {
        const swin_field *f = &p->fields[i];
        if (f->kind == SWIN_FIELD_HEADING) {
            fprintf(out, "\n%s\n", f->name);
            continue;
        }
        char flag[64], left[112];
        flag_name(f, flag, sizeof flag);
        snprintf(left, sizeof left, "%s%s%s", flag, f->arg ? " " : "", f->arg ? f->arg : "");
        fprintf(out, "  %-28s %s%s", left, f->kind == SWIN_FIELD_IGNORED ? "accepted, no effect: " : "",
                f->help);
        print_default(f, (const char *)options + f->offset, out);
        fputc('\n', out);
    }
    fputs("  --help                       this text\n  --version                    the version\n", out);
}

void swin_common_apply(const swin_common *c)
{
    swin_log_set(c->quiet ? SWIN_LOG_QUIET : c->verbose ? SWIN_LOG_VERBOSE : SWIN_LOG_NORMAL);
}
