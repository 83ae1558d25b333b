/* What every page of the admin does in the browser: relative instants that stay true,
   local time on hover or by a switch, copying of ids, and the keys. Served as a file: the
   pages hold no code of ours. */
(() => {
    "use strict";

    // The server's clock decides what is late; this one may be wrong by minutes.
    const loadedAt = performance.now();
    let serverNow = Date.now();

    // Pages that refresh themselves have news by then.
    const SOON = 6000;

    const now = () => serverNow + (performance.now() - loadedAt);

    /* --- Spans, by the rules of scheduling/pages/texts.py --- */
    function spanText(milliseconds) {
        const size = Math.abs(milliseconds);
        if (size < 1000) return `${Math.round(size)} ms`;
        const seconds = Math.floor(size / 1000);
        if (seconds < 60) return `${seconds} s`;
        if (seconds < 3600) {
            const minutes = Math.floor(seconds / 60), rest = seconds % 60;
            return `${minutes} min` + (rest && minutes < 10 ? ` ${rest} s` : "");
        }
        if (seconds < 2 * 86400) {
            const hours = Math.floor(seconds / 3600);
            const minutes = Math.floor((seconds % 3600) / 60);
            return `${hours} h` + (minutes ? ` ${minutes} min` : "");
        }
        const days = Math.floor(seconds / 86400);
        const hours = Math.floor((seconds % 86400) / 3600);
        return `${days} d` + (hours ? ` ${hours} h` : "");
    }

    function relativeText(at, past) {
        const span = at - now();
        if (Math.abs(span) < 1000) return "now";
        return span > 0 ? `in ${spanText(span)}` : `${spanText(span)} ${past}`;
    }

    function dueText(at) {
        const span = now() - at;
        return span < SOON ? "due now" : `due ${spanText(span)} ago: reload to see`;
    }

    function refreshRelative() {
        for (const node of document.querySelectorAll(".ap-relative")) {
            const at = Date.parse(node.dataset.at);
            if (Number.isNaN(at)) continue;
            const isLate = node.dataset.past === "late" && at <= now();
            // Ahead when it was shown: by now it may have been published in time, which
            // only the server knows.
            node.dataset.wasAhead ??= at > now() ? "yes" : "no";
            const isUnknown = isLate && node.dataset.wasAhead === "yes";
            const text = isUnknown
                ? dueText(at)
                : relativeText(at, node.dataset.past || "ago");
            if (node.textContent !== text) node.textContent = text;
            node.classList.toggle("ap-is-late", isLate && !isUnknown);
        }
    }

    /* --- Local time --- */
    const LOCAL = "autopilotLocalTime";
    const showsLocal = () => localStorage.getItem(LOCAL) === "1";

    function localText(date) {
        return date.toLocaleString(undefined, {
            weekday: "short", day: "numeric", month: "short", year: "numeric",
            hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
        });
    }

    function showInstants() {
        for (const node of document.querySelectorAll("time.ap-instant")) {
            node.dataset.utc ??= node.textContent;
            const local = localText(new Date(node.dateTime));
            node.textContent = showsLocal() ? local : node.dataset.utc;
            node.title = showsLocal() ? node.dataset.utc : local;
        }
        const button = document.getElementById("ap-local-time");
        if (button) {
            button.textContent = showsLocal() ? "Show UTC" : "Show local time";
            button.setAttribute("aria-pressed", String(showsLocal()));
        }
    }

    /* --- Copying --- */
    async function copy(button) {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.classList.add("ap-is-copied");
        setTimeout(() => button.classList.remove("ap-is-copied"), 1500);
    }

    /* --- Keys --- */
    const KEYS = [
        ["/", "search by any id"],
        ["g h", "home"],
        ["g t", "transitions"],
        ["g a", "audit"],
        ["?", "these keys"],
        ["Esc", "close, or go back"],
    ];
    const GOES = {
        h: "",
        t: "scheduling/scheduledtransition/",
        a: "scheduling/auditentry/",
    };
    const root = () => (location.pathname.match(/^.*?\/admin\//) || ["/admin/"])[0];

    function keysDialog() {
        let dialog = document.getElementById("ap-keys");
        if (dialog) return dialog;
        dialog = document.createElement("dialog");
        dialog.id = "ap-keys";
        dialog.className = "ap-keys";
        dialog.setAttribute("aria-labelledby", "ap-keys-title");
        const title = document.createElement("h2");
        title.id = "ap-keys-title";
        title.textContent = "Keyboard keys";
        const list = document.createElement("dl");
        for (const [keys, what] of KEYS) {
            const term = document.createElement("dt");
            for (const key of keys.split(" ")) {
                const kbd = document.createElement("kbd");
                kbd.textContent = key;
                term.append(kbd, " ");
            }
            const meaning = document.createElement("dd");
            meaning.textContent = what;
            list.append(term, meaning);
        }
        const close = document.createElement("button");
        close.type = "button";
        close.className = "ap-button";
        close.textContent = "Close";
        close.addEventListener("click", () => dialog.close());
        dialog.append(title, list, close);
        document.body.append(dialog);
        return dialog;
    }

    const isTyping = (target) =>
        target.closest("input, textarea, select, [contenteditable], dialog") !== null;

    let lastG = -Infinity;

    function onKey(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const target = event.target instanceof Element ? event.target : document.body;
        if (event.key === "Escape") {
            if (document.querySelector("dialog[open]")) return;
            if (isTyping(target)) target.blur();
            else if (root() !== location.pathname && history.length > 1) history.back();
            return;
        }
        if (isTyping(target)) return;
        if (event.key === "/") {
            event.preventDefault();
            const search = document.getElementById("searchbar");
            if (search) search.focus();
            else location.assign(`${root()}scheduling/scheduledtransition/#search`);
        } else if (event.key === "?") {
            event.preventDefault();
            keysDialog().showModal();
        } else if (event.key === "g") {
            lastG = performance.now();
        } else if (event.key in GOES && performance.now() - lastG < 1500) {
            event.preventDefault();
            location.assign(root() + GOES[event.key]);
        }
    }

    /* --- A part of the page that is refreshed in place --- */
    function keepFresh(holder) {
        const notice = document.getElementById("ap-no-answer");
        const said = new Map();
        let isAsking = false;

        // What somebody reads with the keyboard, marks or has opened stays as it is.
        const isInUse = (part) =>
            part.contains(document.activeElement) ||
            part.querySelector("details[open]") !== null ||
            (!getSelection().isCollapsed && getSelection().containsNode(part, true));

        function show(html) {
            const page = new DOMParser().parseFromString(html, "text/html");
            for (const fresh of page.querySelectorAll("[data-part]")) {
                const name = fresh.dataset.part;
                const old = holder.querySelector(`[data-part="${name}"]`);
                if (!old || said.get(name) === fresh.outerHTML || isInUse(old)) continue;
                said.set(name, fresh.outerHTML);
                old.replaceWith(document.importNode(fresh, true));
            }
            dress();
        }

        const clock = () => new Date(now()).toISOString().slice(11, 19);
        let answeredAt = clock();

        async function ask() {
            if (document.hidden || isAsking) return;
            isAsking = true;
            try {
                const answer = await fetch(holder.dataset.refresh, {
                    credentials: "same-origin",
                    redirect: "error",
                    signal: AbortSignal.timeout(8000),
                });
                if (!answer.ok) throw new Error(String(answer.status));
                show(await answer.text());
                answeredAt = clock();
                notice.textContent = "";
            } catch {
                notice.textContent = `No answer since ${answeredAt} UTC. What stands here is from then; reload the page if this lasts.`;
            } finally {
                isAsking = false;
            }
        }

        setInterval(ask, Number(holder.dataset.every));
        document.addEventListener("visibilitychange", ask);
    }

    /* --- Once for each page, and again for what is replaced in place --- */
    function dress() {
        showInstants();
        refreshRelative();
    }

    window.autopilot = { dress, now };

    document.addEventListener("DOMContentLoaded", () => {
        const said = document.querySelector('meta[name="autopilot-now"]');
        const parsed = said ? Date.parse(said.content) : NaN;
        // What passed between the page's making and now is told by the browser itself.
        const [navigation] = performance.getEntriesByType("navigation");
        const answeredAt = navigation ? navigation.responseStart : loadedAt;
        if (!Number.isNaN(parsed)) serverNow = parsed + (loadedAt - answeredAt);
        dress();
        setInterval(() => document.hidden || refreshRelative(), 1000);
        document.addEventListener("keydown", onKey);
        document.addEventListener("click", (event) => {
            const target = event.target instanceof Element ? event.target : null;
            if (!target) return;
            const button = target.closest(".ap-copy");
            if (button) copy(button);
            if (target.closest("#ap-local-time")) {
                localStorage.setItem(LOCAL, showsLocal() ? "0" : "1");
                showInstants();
            }
            if (target.closest("[data-open-keys]")) keysDialog().showModal();
        });
        document.addEventListener("htmx:afterSettle", dress);
        // A double click is one click; the server would tell the second anyway.
        document.addEventListener("submit", (event) => {
            const form = event.target;
            if (!form.hasAttribute("data-once")) return;
            if (form.dataset.sent) event.preventDefault();
            form.dataset.sent = "1";
        });
        window.addEventListener("pageshow", () => {
            for (const form of document.querySelectorAll("form[data-once]")) {
                delete form.dataset.sent;
            }
        });
        const holder = document.querySelector("[data-refresh]");
        if (holder) keepFresh(holder);
        const search = document.getElementById("searchbar");
        if (search && location.hash === "#search") search.focus();
        // The theme shows its page by script, after the browser has looked for this.
        document.querySelector("[autofocus]")?.focus();
        // Enter in a reason confirms, and does not press the first button of its form.
        document.addEventListener("keydown", (event) => {
            const field = event.target;
            if (event.key !== "Enter" || event.isComposing) return;
            if (!(field instanceof HTMLInputElement) || field.name !== "reason") return;
            const confirm = field.form?.querySelector("button[name=confirm]");
            if (!confirm) return;
            event.preventDefault();
            field.form.requestSubmit(confirm);
        });
    });
})();
