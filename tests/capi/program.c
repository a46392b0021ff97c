/* A program as a host is one: starts, watches, stops and finishes edits, and makes every mistake a caller can make.
 * Usage: program short|all MODEL_FOLDER. Says which check failed, or "all checks passed". */

#include "imagic.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define QUICK "\"embedding_steps\": 2, \"tuning_steps\": 2, \"sampling_steps\": 2"
#define LONG "\"embedding_steps\": 100000, \"tuning_steps\": 2, \"sampling_steps\": 2"
#define REQUEST(steps) "{\"document\": \"test\", \"params\": {\"prompt\": \"a red dog\", " steps "}}"

enum { WIDTH = 24, HEIGHT = 20, STRIDE = WIDTH * 4 + 12 };

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            char error[512] = ""; \
            imagic_last_error(error, sizeof error, NULL); \
            fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #condition, error); \
            exit(1); \
        } \
    } while (0)

/* The call is refused with this status and a text that holds these words. */
#define REFUSED(call, expected, words) \
    do { \
        char text[512] = ""; \
        CHECK((call) == (expected)); \
        CHECK(imagic_last_error(text, sizeof text, NULL) == IMAGIC_STATUS_OK); \
        CHECK(strstr(text, words) != NULL); \
    } while (0)

static unsigned char source[STRIDE * HEIGHT];

static imagic_picture picture(void) {
    imagic_picture lent = {source, sizeof source, STRIDE, WIDTH, HEIGHT, IMAGIC_FORMAT_BGRA8};
    return lent;
}

static void a_little_later(void) {
    struct timespec time = {0, 2000000};
    nanosleep(&time, NULL);
}

static imagic_worker *new_worker(const char *models) {
    char options[4096];
    imagic_worker *worker = NULL;
    snprintf(options, sizeof options, "{\"model_folders\": [\"%s\"], \"cache_folder\": null}", models);
    CHECK(imagic_worker_new(options, &worker) == IMAGIC_STATUS_OK && worker != NULL);
    return worker;
}

static imagic_job *submit(imagic_worker *worker, const char *request) {
    imagic_picture lent = picture();
    imagic_job *job = NULL;
    CHECK(imagic_worker_submit(worker, request, &lent, &job) == IMAGIC_STATUS_OK && job != NULL);
    return job;
}

/* Polls until the job has ended; answers its state. */
static uint32_t finish(imagic_job *job, imagic_progress *progress) {
    double fraction = 0;
    for (;;) {
        CHECK(imagic_job_poll(job, progress) == IMAGIC_STATUS_OK);
        CHECK(memchr(progress->text, 0, sizeof progress->text) != NULL);
        if (progress->state != IMAGIC_STATE_RUNNING) return progress->state;
        CHECK(progress->fraction >= fraction && progress->fraction <= 1);
        fraction = progress->fraction;
        a_little_later();
    }
}

/* Everything that is refused before the engine sees it. */
static void mistakes(const char *models) {
    imagic_worker *worker = NULL, *untouched = (imagic_worker *)&worker;
    imagic_job *job = NULL;
    imagic_picture lent = picture();
    imagic_progress progress;
    char text[8];
    unsigned char pixel[4];
    size_t needed = 0;

    REFUSED(imagic_worker_new(NULL, NULL), IMAGIC_STATUS_ARGUMENT, "worker is NULL");
    REFUSED(imagic_worker_new("{", &untouched), IMAGIC_STATUS_ARGUMENT, "not a JSON object");
    REFUSED(imagic_worker_new("[]", &untouched), IMAGIC_STATUS_ARGUMENT, "not a JSON object");
    REFUSED(imagic_worker_new("\xff", &untouched), IMAGIC_STATUS_ARGUMENT, "not a JSON object");
    REFUSED(imagic_worker_new("{\"cache\": 1}", &untouched), IMAGIC_STATUS_ARGUMENT, "there is no option cache");
    REFUSED(imagic_worker_new("{\"model_folders\": [1]}", &untouched), IMAGIC_STATUS_ARGUMENT, "a list of paths");
    REFUSED(imagic_worker_new("{\"cache_limit\": -1}", &untouched), IMAGIC_STATUS_ARGUMENT, "a number of bytes");
    CHECK(untouched == (imagic_worker *)&worker);

    worker = new_worker(models);
    REFUSED(imagic_worker_submit(NULL, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "worker is NULL");
    REFUSED(imagic_worker_submit(worker, NULL, &lent, &job), IMAGIC_STATUS_ARGUMENT, "request_json is NULL");
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), NULL, &job), IMAGIC_STATUS_ARGUMENT, "picture is NULL");
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, NULL), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    REFUSED(imagic_worker_submit(worker, "{}", &lent, &job), IMAGIC_STATUS_ARGUMENT, "no object params");
    REFUSED(imagic_worker_submit(worker, "{\"params\": {}}", &lent, &job), IMAGIC_STATUS_PARAMETER,
            "target text is empty");
    REFUSED(imagic_worker_submit(worker, REQUEST("\"eta\": 9"), &lent, &job), IMAGIC_STATUS_PARAMETER, "eta is 9");
    REFUSED(imagic_worker_submit(worker, REQUEST("\"alpha\": 1"), &lent, &job), IMAGIC_STATUS_PARAMETER,
            "no parameter alpha");
    REFUSED(imagic_worker_submit(worker, REQUEST("\"model\": \"no\""), &lent, &job), IMAGIC_STATUS_MODEL,
            "no such model");
    REFUSED(imagic_worker_submit(worker, REQUEST("\"model\": \"a.ckpt\""), &lent, &job), IMAGIC_STATUS_MODEL,
            "refused");

    REFUSED(imagic_worker_submit_part(worker, REQUEST(QUICK), &lent, source, 4, &job), IMAGIC_STATUS_ARGUMENT,
            "selection_len is 4, must be at least 480");
    static const unsigned char nothing[WIDTH * HEIGHT];
    REFUSED(imagic_worker_submit_part(worker, REQUEST(QUICK), &lent, nothing, sizeof nothing, &job),
            IMAGIC_STATUS_ARGUMENT, "nothing is selected");

    lent.format = 4;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "format is 4");
    lent = picture(), lent.width = 0;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "0x20 pixels");
    lent = picture(), lent.width = lent.height = UINT32_MAX;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "pixels");
    lent = picture(), lent.stride = SIZE_MAX;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "fit into memory");
    lent = picture(), lent.stride = (size_t)1 << 62, lent.height = 4, lent.pixels_len = SIZE_MAX;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "fit into memory");
    lent = picture(), lent.stride = WIDTH * 4 - 1;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "must be at least 96");
    lent = picture(), lent.pixels_len = STRIDE * (HEIGHT - 1) + WIDTH * 4 - 1;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "pixels_len is");
    lent = picture(), lent.format = IMAGIC_FORMAT_RGBA16;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "must be at least 192");
    lent = picture(), lent.pixels = NULL;
    REFUSED(imagic_worker_submit(worker, REQUEST(QUICK), &lent, &job), IMAGIC_STATUS_ARGUMENT, "pixels is NULL");
    CHECK(job == NULL);

    REFUSED(imagic_job_poll(NULL, &progress), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    REFUSED(imagic_job_cancel(NULL), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    REFUSED(imagic_job_result(NULL, 0, 4, pixel, 4), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    REFUSED(imagic_job_report_json(NULL, text, sizeof text, &needed), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    REFUSED(imagic_job_hint(NULL, text, sizeof text, &needed), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    REFUSED(imagic_models_json(NULL, text, sizeof text, &needed), IMAGIC_STATUS_ARGUMENT, "worker is NULL");
    CHECK(imagic_job_free(NULL) == IMAGIC_STATUS_OK && imagic_worker_free(NULL) == IMAGIC_STATUS_OK);

    /* Short buffers: the size that is needed and nothing else. */
    memset(text, 'x', sizeof text);
    CHECK(imagic_parameters_json(text, sizeof text, &needed) == IMAGIC_STATUS_BUFFER_TOO_SMALL);
    CHECK(needed > sizeof text && text[0] == 'x' && text[7] == 'x');
    CHECK(imagic_parameters_json(NULL, SIZE_MAX, NULL) == IMAGIC_STATUS_BUFFER_TOO_SMALL);
    char *json = malloc(needed);
    CHECK(imagic_parameters_json(json, needed - 1, NULL) == IMAGIC_STATUS_BUFFER_TOO_SMALL);
    CHECK(imagic_parameters_json(json, needed, NULL) == IMAGIC_STATUS_OK && strlen(json) == needed - 1);
    CHECK(strstr(json, "\"id\":\"tuning_steps\"") != NULL);
    free(json);

    /* The last error: cut to the buffer, its length told. */
    CHECK(imagic_job_cancel(NULL) == IMAGIC_STATUS_ARGUMENT);
    CHECK(imagic_last_error(text, sizeof text, &needed) == IMAGIC_STATUS_OK);
    CHECK(strcmp(text, "job is ") == 0 && needed == sizeof "job is NULL");
    CHECK(imagic_last_error(NULL, 0, NULL) == IMAGIC_STATUS_OK);
    CHECK(imagic_last_error(text, 0, NULL) == IMAGIC_STATUS_OK && text[0] == 'j');

    CHECK(imagic_worker_free(worker) == IMAGIC_STATUS_OK);
}

static void an_edit_from_start_to_end(const char *models) {
    imagic_worker *worker = new_worker(models);
    imagic_progress progress;
    size_t needed = 0;
    imagic_job *job = submit(worker, REQUEST(QUICK));
    enum { PACKED = WIDTH * HEIGHT * 4 };
    unsigned char *pixels = malloc(sizeof source), *packed = malloc(PACKED), *deep = malloc(PACKED * 2);

    CHECK(finish(job, &progress) == IMAGIC_STATE_DONE);
    CHECK(progress.fraction == 1 && progress.seconds_left == 0 && strcmp(progress.text, "Done") == 0);
    CHECK(imagic_job_cancel(job) == IMAGIC_STATUS_OK);
    CHECK(finish(job, &progress) == IMAGIC_STATE_DONE);

    /* The same pixels in every format; bytes between rows stay as they were. */
    memset(pixels, 0xA5, sizeof source);
    CHECK(imagic_job_result(job, IMAGIC_FORMAT_BGRA8, STRIDE, pixels, sizeof source) == IMAGIC_STATUS_OK);
    CHECK(imagic_job_result(job, IMAGIC_FORMAT_RGBA8, WIDTH * 4, packed, PACKED) == IMAGIC_STATUS_OK);
    CHECK(imagic_job_result(job, IMAGIC_FORMAT_RGBA16, WIDTH * 8, deep, PACKED * 2) == IMAGIC_STATUS_OK);
    for (int y = 0; y < HEIGHT; y++) {
        for (int x = 0; x < WIDTH; x++) {
            const unsigned char *bgra = pixels + y * STRIDE + x * 4, *rgba = packed + (y * WIDTH + x) * 4;
            uint16_t red;
            memcpy(&red, deep + (y * WIDTH + x) * 8, sizeof red);
            CHECK(bgra[0] == rgba[2] && bgra[1] == rgba[1] && bgra[2] == rgba[0] && bgra[3] == rgba[3]);
            CHECK(rgba[3] == source[y * STRIDE + x * 4 + 3]);
            CHECK((red + 128) / 257 == rgba[0]);
        }
        CHECK(y == HEIGHT - 1 || (pixels[y * STRIDE + WIDTH * 4] == 0xA5 && pixels[y * STRIDE + STRIDE - 1] == 0xA5));
    }

    memset(packed, 0xA5, PACKED);
    REFUSED(imagic_job_result(job, IMAGIC_FORMAT_RGBA8, WIDTH * 4, packed, PACKED - 1), IMAGIC_STATUS_BUFFER_TOO_SMALL,
            "pixels_len");
    REFUSED(imagic_job_result(job, IMAGIC_FORMAT_RGBA8, WIDTH * 4 - 1, packed, PACKED), IMAGIC_STATUS_ARGUMENT,
            "stride");
    REFUSED(imagic_job_result(job, IMAGIC_FORMAT_RGBA8, SIZE_MAX, packed, PACKED), IMAGIC_STATUS_ARGUMENT, "stride");
    REFUSED(imagic_job_result(job, 7, WIDTH * 4, packed, PACKED), IMAGIC_STATUS_ARGUMENT, "format is 7");
    REFUSED(imagic_job_result(job, IMAGIC_FORMAT_RGBA8, WIDTH * 4, NULL, PACKED), IMAGIC_STATUS_ARGUMENT,
            "pixels is NULL");
    CHECK(packed[0] == 0xA5 && packed[PACKED - 1] == 0xA5);

    CHECK(imagic_job_report_json(job, NULL, 0, &needed) == IMAGIC_STATUS_BUFFER_TOO_SMALL);
    char *report = malloc(needed);
    CHECK(imagic_job_report_json(job, report, needed, NULL) == IMAGIC_STATUS_OK);
    CHECK(strstr(report, "\"prompt\":\"a red dog\"") != NULL && strstr(report, "\"cache_hit\":false") != NULL);
    free(report);
    CHECK(imagic_job_free(job) == IMAGIC_STATUS_OK);

    /* Another eta from the same tuning. */
    job = submit(worker, REQUEST(QUICK ", \"eta\": 0.25"));
    CHECK(finish(job, &progress) == IMAGIC_STATE_DONE);
    CHECK(imagic_job_report_json(job, NULL, 0, &needed) == IMAGIC_STATUS_BUFFER_TOO_SMALL);
    report = malloc(needed);
    CHECK(imagic_job_report_json(job, report, needed, NULL) == IMAGIC_STATUS_OK);
    CHECK(strstr(report, "\"tuned\":\"in_memory\"") != NULL && strstr(report, "\"hint\":null") != NULL);
    free(report);
    CHECK(imagic_job_hint(job, (char *)packed, PACKED, &needed) == IMAGIC_STATUS_OK && packed[0] == 0 && needed == 1);
    imagic_job_free(job);

    CHECK(imagic_models_json(worker, NULL, 0, &needed) == IMAGIC_STATUS_BUFFER_TOO_SMALL);
    report = malloc(needed);
    CHECK(imagic_models_json(worker, report, needed, NULL) == IMAGIC_STATUS_OK);
    CHECK(strstr(report, "\"name\":\"scenes-64\"") != NULL);
    free(report);

    imagic_worker_free(worker);
    free(pixels);
    free(packed);
    free(deep);
}

/* What is not selected stays as it is, byte for byte. */
static void a_part_is_edited(const char *models) {
    static unsigned char selection[WIDTH * HEIGHT], pixels[sizeof source];
    imagic_worker *worker = new_worker(models);
    imagic_picture lent = picture();
    imagic_progress progress;
    imagic_job *job = NULL;
    int changed = 0;
    for (int y = 4; y < 16; y++) memset(selection + y * WIDTH + 4, 255, 12);
    CHECK(imagic_worker_submit_part(worker, REQUEST(QUICK), &lent, selection, sizeof selection, &job) ==
          IMAGIC_STATUS_OK);
    CHECK(finish(job, &progress) == IMAGIC_STATE_DONE);
    CHECK(imagic_job_result(job, IMAGIC_FORMAT_BGRA8, STRIDE, pixels, sizeof pixels) == IMAGIC_STATUS_OK);
    for (int y = 0; y < HEIGHT; y++) {
        for (int x = 0; x < WIDTH; x++) {
            int is_same = memcmp(pixels + y * STRIDE + x * 4, source + y * STRIDE + x * 4, 4) == 0;
            CHECK(is_same || selection[y * WIDTH + x] == 255);
            changed += !is_same;
        }
    }
    CHECK(changed > 0);
    imagic_job_free(job);
    imagic_worker_free(worker);
}

/* The model "strict" calls every picture unfamiliar: known while the tuning runs, and kept by the finished job. */
static void a_hint_comes_before_the_tuning(const char *models) {
    imagic_worker *worker = new_worker(models);
    imagic_progress progress;
    char hint[512] = "", report[4096];
    size_t needed = 0;
    imagic_job *job = submit(worker, REQUEST("\"model\": \"strict\", " LONG));
    do {
        CHECK(imagic_job_poll(job, &progress) == IMAGIC_STATUS_OK && progress.state == IMAGIC_STATE_RUNNING);
        a_little_later();
    } while (progress.stage != IMAGIC_STAGE_OPTIMIZE_TEXT_EMBEDDING);
    CHECK(imagic_job_hint(job, hint, sizeof hint, &needed) == IMAGIC_STATUS_OK && needed == strlen(hint) + 1);
    CHECK(strstr(hint, "unlike what the base model can draw") != NULL && strstr(hint, "expect a poor edit") != NULL);
    REFUSED(imagic_job_hint(job, hint, 8, &needed), IMAGIC_STATUS_BUFFER_TOO_SMALL, "text_len is 8");
    imagic_job_free(job);

    job = submit(worker, REQUEST("\"model\": \"strict\", " QUICK));
    CHECK(finish(job, &progress) == IMAGIC_STATE_DONE);
    CHECK(imagic_job_hint(job, hint, sizeof hint, NULL) == IMAGIC_STATUS_OK &&
          strstr(hint, "expect a poor edit") != NULL);
    CHECK(imagic_job_report_json(job, report, sizeof report, NULL) == IMAGIC_STATUS_OK);
    CHECK(strstr(report, "\"kind\":\"unfamiliar_picture\"") != NULL && strstr(report, hint) != NULL);
    imagic_job_free(job);
    imagic_worker_free(worker);
}

static void cancelled_waiting_and_orphaned_jobs(const char *models) {
    imagic_worker *worker = new_worker(models);
    imagic_progress progress;
    unsigned char pixel[4];
    imagic_job *running = submit(worker, REQUEST(LONG));
    imagic_job *waiting = submit(worker, REQUEST(QUICK));
    imagic_job *forgotten = submit(worker, REQUEST(LONG));

    do {
        CHECK(imagic_job_poll(running, &progress) == IMAGIC_STATUS_OK && progress.state == IMAGIC_STATE_RUNNING);
        a_little_later();
    } while (progress.stage != IMAGIC_STAGE_OPTIMIZE_TEXT_EMBEDDING || progress.step == 0);
    CHECK(progress.steps == 100000 && progress.loss >= 0 && strncmp(progress.text, "A: ", 3) == 0);
    REFUSED(imagic_job_result(running, IMAGIC_FORMAT_RGBA8, 4, pixel, 4), IMAGIC_STATUS_RUNNING, "not ended");
    CHECK(imagic_job_poll(waiting, &progress) == IMAGIC_STATUS_OK);
    CHECK(progress.state == IMAGIC_STATE_RUNNING && progress.stage == IMAGIC_STAGE_WAITING);

    CHECK(imagic_job_cancel(running) == IMAGIC_STATUS_OK);
    CHECK(finish(running, &progress) == IMAGIC_STATE_CANCELLED);
    REFUSED(imagic_job_result(running, IMAGIC_FORMAT_RGBA8, 4, pixel, 4), IMAGIC_STATUS_CANCELLED, "stopped");
    REFUSED(imagic_job_report_json(running, NULL, 0, NULL), IMAGIC_STATUS_CANCELLED, "stopped");
    CHECK(finish(waiting, &progress) == IMAGIC_STATE_DONE);

    /* A running job is freed: its edit stops and the next one runs. */
    imagic_job_free(forgotten);
    imagic_job *next = submit(worker, REQUEST(QUICK));
    CHECK(finish(next, &progress) == IMAGIC_STATE_DONE);

    /* The worker goes first: its job is cancelled and stays valid. */
    imagic_job *orphan = submit(worker, REQUEST(LONG));
    CHECK(imagic_worker_free(worker) == IMAGIC_STATUS_OK);
    CHECK(finish(orphan, &progress) == IMAGIC_STATE_CANCELLED);
    imagic_job_free(orphan), imagic_job_free(next), imagic_job_free(waiting), imagic_job_free(running);
}

struct shared {
    imagic_worker *worker;
    imagic_job *job;
};

static void *use_from_another_thread(void *argument) {
    struct shared *shared = argument;
    imagic_progress progress;
    unsigned char pixels[WIDTH * HEIGHT * 4];
    CHECK(finish(shared->job, &progress) == IMAGIC_STATE_DONE);
    CHECK(imagic_job_result(shared->job, IMAGIC_FORMAT_RGBA8, WIDTH * 4, pixels, sizeof pixels) == IMAGIC_STATUS_OK);
    imagic_job *own = submit(shared->worker, REQUEST(LONG));
    CHECK(imagic_job_cancel(own) == IMAGIC_STATUS_OK);
    CHECK(finish(own, &progress) == IMAGIC_STATE_CANCELLED);
    imagic_job_free(own);
    /* The last error is this thread's own. */
    REFUSED(imagic_job_poll(NULL, &progress), IMAGIC_STATUS_ARGUMENT, "job is NULL");
    return NULL;
}

static void several_threads(const char *models) {
    struct shared shared = {new_worker(models), NULL};
    pthread_t threads[6];
    shared.job = submit(shared.worker, REQUEST(QUICK));
    for (int i = 0; i < 6; i++) CHECK(pthread_create(&threads[i], NULL, use_from_another_thread, &shared) == 0);
    for (int i = 0; i < 6; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    imagic_job_free(shared.job);
    imagic_worker_free(shared.worker);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    for (size_t i = 0; i < sizeof source; i++) source[i] = (unsigned char)(i * 7 + i / STRIDE);
    CHECK(imagic_abi_version() == IMAGIC_ABI_VERSION);
    CHECK(strchr(imagic_version(), '.') != NULL);
    mistakes(argv[2]);
    an_edit_from_start_to_end(argv[2]);
    if (strcmp(argv[1], "all") == 0) {
        a_part_is_edited(argv[2]);
        a_hint_comes_before_the_tuning(argv[2]);
        cancelled_waiting_and_orphaned_jobs(argv[2]);
        several_threads(argv[2]);
    }
    puts("all checks passed");
    return 0;
}
