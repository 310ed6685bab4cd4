/* The fewest units that meet the limit. */
#include <math.h>

#include "calib/auto_impl.h"
#include "runtime/base/log.h"

/* Insertion keeps equal errors in the network's order. */
static void rank(job *j)
{
    for (int i = 0; i < j->count; i++) {
        int at = i;
        for (; at > 0 && j->error[j->order[at - 1]] < j->error[i]; at--) j->order[at] = j->order[at - 1];
        j->order[at] = i;
    }
}

/* f's flags from the units': all on first, for a GEMM's output is part of two units. */
static void apply(job *j)
{
    for (int i = 0; i < j->count; i++) swin_relax_set(j->f, &j->units[i], false);
    for (int i = 0; i < j->count; i++)
        if (j->units[i].relaxed) swin_relax_set(j->f, &j->units[i], true);
}

static swin_status judge_units(job *j, int relaxed, swin_accuracy *a)
{
    apply(j);
    SWIN_TRY(auto_judge(j, false, a));
    if (auto_meets(j, a))
        swin_note("auto: %3d of %d units relaxed: %.2f %%, %.2f dB", relaxed, j->count,
                  swin_accuracy_agreement(a), swin_accuracy_sqnr(a));
    else
        swin_note("auto: %3d of %d units relaxed: not enough", relaxed, j->count);
    return SWIN_OK;
}

/* The first n of the order. */
static swin_status judge_first(job *j, int n, swin_accuracy *a)
{
    for (int i = 0; i < j->count; i++) j->units[j->order[i]].relaxed = i < n;
    return judge_units(j, n, a);
}

/* Where errors add up, leaving out the largest n leaves this share of the whole. */
static int first_guess(const job *j, double share)
{
    double all = 0, left;
    int n = 0;
    for (int i = 0; i < j->count; i++) all += j->error[i];
    for (left = all; n < j->count && left > share * all; n++) left -= j->error[j->order[n]];
    return n < 1 ? 1 : n < j->count ? n : j->count - 1;
}

/* What of the error may stay, as far as the limit says: an SQNR says it, an agreement does not. */
static double share_allowed(const job *j, const swin_accuracy *start)
{
    const double db = j->o->limit.min_sqnr - swin_accuracy_sqnr(start);
    return db > 0 ? pow(10, -db / 10) : 0.5;
}

/* Bisection between `less`, too few, and `enough`, from a first guess. */
static swin_status find_prefix(job *j, double share, int *found, swin_accuracy *end)
{
    int less = 0, enough = j->count;
    SWIN_TRY(judge_first(j, enough, end));
    if (!auto_meets(j, end))
        return swin_fail(SWIN_ERR_LIMIT,
                         "--int8-mode auto: not even with everything in float is the limit met");
    for (int n = first_guess(j, share); enough - less > 1; n = less + (enough - less) / 2) {
        swin_accuracy a;
        SWIN_TRY(judge_first(j, n, &a));
        if (auto_meets(j, &a)) {
            enough = n;
            *end = a;
        } else {
            less = n;
        }
    }
    *found = enough;
    return SWIN_OK;
}

/* Quantize again what the limit does not need, the smallest errors first. The last unit of the prefix is needed: without it
 * the limit was missed. */
static swin_status prune(job *j, int n, swin_accuracy *end)
{
    int relaxed = n;
    for (int i = 0; i < j->count; i++) j->units[j->order[i]].relaxed = i < n;
    for (int i = n - 2; i >= 0; i--) {
        swin_accuracy a;
        swin_relax_unit *u = &j->units[j->order[i]];
        u->relaxed = false;
        SWIN_TRY(judge_units(j, relaxed - 1, &a));
        if (auto_meets(j, &a)) {
            *end = a;
            relaxed--;
        } else {
            u->relaxed = true;
        }
    }
    apply(j);
    return SWIN_OK;
}

swin_status auto_search(job *j, swin_accuracy *end)
{
    int n;
    const double share = share_allowed(j, end);
    rank(j);
    SWIN_TRY(find_prefix(j, share, &n, end));
    return prune(j, n, end);
}
