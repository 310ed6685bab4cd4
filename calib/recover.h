/* calib/recover.h - accuracy recovery: INT8 closer to the float network, from the calibration images alone, without training.
 *
 * A method is one file (recover_NAME.c) and one row of the table in recover.c. Methods run in the table's order, on at most
 * SWIN_RECOVER_IMAGES of the calibration images, spread over their list; one in five of these is held back from the methods
 * and only measures, after each one, the SQNR of the logits against fp32. What a method changed goes into the calibration
 * file (quant/corrections.h).
 *
 * Tensors are looked at where they are: ranges, means and sums of all their rows come from the device, and errors are measured on
 * some rows, evenly many from each image, at places that depend on the image's number in the list alone. So the file depends on
 * neither batch size nor threads; another backend, which adds in another order, may give another one.
 */
#ifndef SWIN_CALIB_RECOVER_H
#define SWIN_CALIB_RECOVER_H

#include "data/loader.h"
#include "quant/calib_file.h"
#include "runtime/ops/ops.h"
#include "runtime/swin/net.h"

#define SWIN_RECOVER_IMAGES 80

typedef struct swin_recover swin_recover;

/* When a method runs: before the ranges of all images are observed (it changes what will be seen), or after. */
typedef enum swin_recover_when { SWIN_RECOVER_BEFORE, SWIN_RECOVER_AFTER } swin_recover_when;

enum { SWIN_RECOVER_FAST = 1, SWIN_RECOVER_BEST = 2 };

typedef struct swin_recover_method {
    const char *name, *help;
    unsigned levels; /* which levels include it */
    swin_recover_when when;
    bool follows; /* the network that judges, recover_sim(), has been given whatever it changed */
    bool
        guarded; /* is undone when the images held back lose by it; AFTER only. Not for a method that counts on one that
                   * follows, as all that leave means to `bias` do */
    swin_int8_mode mode; /* the only one in which it has anything to do; 0: all */
    /* Writes into `changed` what it did, in words. */
    swin_status (*run)(swin_recover *r, char *changed, size_t size);
} swin_recover_method;

/* NULL-terminated, in the order of running. */
const swin_recover_method *const *swin_recover_methods(void);

/* Which methods `text` names: none, or fast, best and methods separated by commas. Bit i: row i. SWIN_ERR_USAGE names --recover
 * and the unknown one. */
swin_status swin_recover_choose(unsigned *methods, const char *text);

typedef struct swin_recover_opts {
    unsigned methods; /* of swin_recover_choose */
    int threads;
    bool strict;           /* a broken image is an error */
    const size_t *indices; /* [count] positions of the calibration images in data, ascending */
    size_t count;
} swin_recover_opts;

/*
 * Read the images and start from the weights w, which are not changed. All arguments must outlive r. Ranges and scales are
 * taken from f, and changed there, whenever methods run.
 */
swin_status swin_recover_open(swin_recover **r, swin_dev *dev, const swin_config *c, const swin_weights *w,
                              swin_calib_file *f, swin_dataset *data, const swin_recover_opts *o);
void swin_recover_close(swin_recover *r); /* NULL is fine */

/* The calibration images that it works on. */
const size_t *swin_recover_indices(const swin_recover *r, size_t *count);

/* The float network of these weights, to be walked with f's factors: r's own, valid until a method runs. */
swin_status swin_recover_net(swin_recover *r, swin_net **net);

/* Seconds spent so far, in words: reading images, each method, judging. Their sum goes to *sum. */
void swin_recover_timing(const swin_recover *r, char *text, size_t size, double *sum);

/* The weights as changed so far: the float network that they make with f's factors is the same as at the start, until a
 * method that runs AFTER changes it. */
const swin_weights *swin_recover_weights(const swin_recover *r);

/* The weights before methods that run AFTER changed them: with f's factors still the float network of the start. */
const swin_weights *swin_recover_exact(const swin_recover *r);

/* Whether any of the methods chosen is still to run then. */
bool swin_recover_has(const swin_recover *r, swin_recover_when when);

/*
 * BEFORE: run the next method of that kind. AFTER: all of them. f has been derived for the weights as they are; after BEFORE
 * they are others, after AFTER f's scales belong to them and f->corrections holds what changed.
 */
swin_status swin_recover_run(swin_recover *r, swin_recover_when when);

#endif
