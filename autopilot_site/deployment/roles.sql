-- PostgreSQL's roles with no more rights than each kind of process needs.
--
-- Run by the role that owns the tables, which is the one that runs `manage.py migrate`,
-- in Autopilot's database, after each `migrate`. It may be run again at any time:
--
--   psql "$OWNER_ADDRESS" --set ON_ERROR_STOP=1 --file roles.sql
--
-- The first time that role needs CREATEROLE, or somebody who has it makes the three roles
-- below beforehand. Nobody logs in by them; processes do by names of their own:
--
--   CREATE ROLE autopilot_cluster LOGIN PASSWORD '…' IN ROLE autopilot_engine;
--   CREATE ROLE autopilot_http LOGIN PASSWORD '…' IN ROLE autopilot_web;
--   CREATE ROLE autopilot_grafana LOGIN PASSWORD '…' IN ROLE autopilot_read;
--
-- autopilot_engine: clusters and consumers. autopilot_web: web processes. autopilot_read:
-- people and dashboards that look at jobs and audit. The owner alone may change tables,
-- triggers and the audit.

BEGIN;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['autopilot_engine', 'autopilot_web', 'autopilot_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END $$;

-- Whoever may create in the schema could put a table or function in the way of ours.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO autopilot_engine, autopilot_web, autopilot_read;

-- From nothing on, all in one transaction: what was given once is not given for ever, and
-- processes that run meanwhile lack nothing.
REVOKE ALL ON ALL TABLES IN SCHEMA public
    FROM PUBLIC, autopilot_engine, autopilot_web, autopilot_read;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public
    FROM PUBLIC, autopilot_engine, autopilot_web, autopilot_read;

DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        IF one.tablename ~ '^(scheduling|recovery)_' THEN
            EXECUTE format(
                'GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I'
                ' TO autopilot_engine, autopilot_web', one.tablename);
            EXECUTE format(
                'GRANT SELECT ON public.%I TO autopilot_read', one.tablename);
        ELSIF one.tablename ~ '^(auth|axes|token_blacklist|constance)_'
            OR one.tablename IN ('django_session', 'django_admin_log') THEN
            EXECUTE format(
                'GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I TO autopilot_web',
                one.tablename);
        END IF;
    END LOOP;
END $$;

-- The audit and its seals are added to by all who act, and changed by nobody. A web
-- process seals nothing.
REVOKE UPDATE, DELETE ON scheduling_auditentry, scheduling_auditseal
    FROM autopilot_engine, autopilot_web;
REVOKE INSERT ON scheduling_auditseal FROM autopilot_web;
-- What jobs are searched by is kept by the clusters.
REVOKE INSERT, UPDATE, DELETE ON scheduling_jobtext FROM autopilot_web;

-- What `migrate` alone writes.
REVOKE INSERT, UPDATE, DELETE ON auth_permission FROM autopilot_web;
GRANT SELECT ON django_content_type TO autopilot_web;
GRANT SELECT ON django_migrations TO autopilot_engine, autopilot_web;

-- The cluster reads the settings in force, and deletes what has expired.
GRANT SELECT ON constance_constance TO autopilot_engine;
GRANT SELECT, DELETE ON django_session, axes_accessattempt,
    token_blacklist_outstandingtoken, token_blacklist_blacklistedtoken
    TO autopilot_engine;

-- django-q2's queue is the cluster's own: a row in it makes the cluster run a task.
GRANT SELECT, INSERT, UPDATE, DELETE ON django_q_ormq, django_q_task TO autopilot_engine;

-- What a later `migrate` adds is there for both at once, so that a release may be rolled
-- out before this script has run again, which then takes back what is too much.
ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO autopilot_engine, autopilot_web;

COMMIT;
