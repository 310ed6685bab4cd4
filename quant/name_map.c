#include "quant/name_map.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

static int by_site(const void *a, const void *b)
{
    const swin_name_pair *x = a, *y = b;
    if (x->site != y->site) return x->site < y->site ? -1 : 1;
    return strcmp(x->tensor, y->tensor);
}

static int by_tensor(const void *a, const void *b)
{
    const swin_name_pair *const *x = a, *const *y = b;
    return strcmp((*x)->tensor, (*y)->tensor);
}

/* One line, cut in place. Nothing is added for an empty line or a comment. */
static swin_status add_line(swin_name_map *m, const swin_config *c, char *line, size_t number)
{
    while (isspace((unsigned char)*line)) line++;
    if (!*line || *line == '#') return SWIN_OK;
    char *end = line + strlen(line);
    while (isspace((unsigned char)end[-1])) *--end = 0;
    char *tensor = line;
    while (*tensor && !isspace((unsigned char)*tensor)) tensor++;
    if (!*tensor) return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: no tensor after %s", m->path, number, line);
    *tensor++ = 0;
    while (isspace((unsigned char)*tensor)) tensor++;

    const swin_site site = swin_site_find(c, line);
    if (site == SWIN_NO_SITE || swin_site_index(c, site) < 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: %s is no site of this network", m->path, number, line);
    if (swin_site_role_of(site) == SWIN_ROLE_WEIGHT)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: %s is a weight: tables of tensors hold activations",
                         m->path, number, line);
    char *copy = strdup(tensor);
    if (!copy) return swin_fail(SWIN_ERR_MEM, "%s: no memory", m->path);
    m->pairs[m->count++] = (swin_name_pair){ .site = site, .tensor = copy };
    return SWIN_OK;
}

/* A tensor has one scale, so it may stand for one site only. */
static swin_status check_unique(const swin_name_map *m)
{
    const swin_name_pair **sorted = malloc((m->count + 1) * sizeof(swin_name_pair *));
    if (!sorted) return swin_fail(SWIN_ERR_MEM, "%s: no memory", m->path);
    for (size_t i = 0; i < m->count; i++) sorted[i] = &m->pairs[i];
    qsort(sorted, m->count, sizeof *sorted, by_tensor);
    swin_status st = SWIN_OK;
    for (size_t i = 1; i < m->count && st == SWIN_OK; i++)
        if (strcmp(sorted[i]->tensor, "-") != 0 && strcmp(sorted[i - 1]->tensor, sorted[i]->tensor) == 0)
            st = swin_fail(SWIN_ERR_FORMAT, "%s: tensor %s is given twice", m->path, sorted[i]->tensor);
    free(sorted);
    return st;
}

swin_status swin_name_map_read(swin_name_map *m, const swin_config *c, const char *path)
{
    *m = (swin_name_map){ 0 };
    unsigned char *text = NULL;
    size_t size, lines = 1, number = 0;
    SWIN_TRY(swin_read_file(path, &text, &size));
    swin_status st = SWIN_OK;
    if (memchr(text, 0, size)) {
        st = swin_fail(SWIN_ERR_FORMAT, "%s: not a text file", path);
        goto done;
    }
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    m->path = strdup(path);
    m->pairs = calloc(lines, sizeof *m->pairs);
    if (!m->path || !m->pairs) {
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory for %zu lines", path, lines);
        goto done;
    }
    for (char *line = (char *)text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        SWIN_TRY_GOTO(st, add_line(m, c, line, ++number), done);
    }
    qsort(m->pairs, m->count, sizeof *m->pairs, by_site);
    st = check_unique(m);
done:
    free(text);
    if (st != SWIN_OK) swin_name_map_free(m);
    return st;
}

void swin_name_map_free(swin_name_map *m)
{
    for (size_t i = 0; i < m->count; i++) free(m->pairs[i].tensor);
    free(m->pairs);
    free(m->path);
    *m = (swin_name_map){ 0 };
}

const swin_name_pair *swin_name_map_find(const swin_name_map *m, swin_site site, size_t *count)
{
    size_t first = 0, last;
    while (first < m->count && m->pairs[first].site != site) first++;
    for (last = first; last < m->count && m->pairs[last].site == site;) last++;
    *count = last - first;
    return *count ? &m->pairs[first] : NULL;
}
