/* tests/demo/shapes.h - the ten classes of the embedded demo, drawn procedurally.
 *
 * A picture is a textured background, smaller shapes of any class as clutter, one large shape that gives the label,
 * bars across it and noise. Everything comes from one seed, so a picture depends on (seed, class, index) alone.
 */
#ifndef SWIN_TESTS_DEMO_SHAPES_H
#define SWIN_TESTS_DEMO_SHAPES_H

#include <stdint.h>

#include "runtime/base/status.h"

#define DEMO_CLASSES  10
#define DEMO_MAX_SIDE 192 /* pixels */

/* In byte order, so that a class's index is the rank of its folder. */
extern const char *const demo_class_names[DEMO_CLASSES];

typedef struct demo_picture {
    int width, height;                              /* pixels, 128 to DEMO_MAX_SIDE */
    int gray;                                       /* to be stored with one component */
    int quality;                                    /* JPEG quality */
    uint8_t rgb[DEMO_MAX_SIDE * DEMO_MAX_SIDE * 3]; /* interleaved, height * width * 3 bytes */
} demo_picture;

/*
 * Draw one picture.
 *
 * label      0 .. DEMO_CLASSES - 1
 * seed       of this picture: equal seeds and labels give equal pixels
 * hardness   0: clean and large; 0.4: what the demo uses; more: noisier, smaller, more hidden
 */
swin_status demo_draw(demo_picture *p, int label, uint64_t seed, double hardness);

/* Signed distance to the shape's outline at (x, y), negative inside; the shape fills about the unit disc, y down. */
double demo_shape_distance(int label, double x, double y);

#endif
