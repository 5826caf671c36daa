-- A person's place in an organisation; without an organisation, on the platform. One person may have several.
CREATE TABLE users (
    id          uuid PRIMARY KEY,
    org_id      uuid REFERENCES orgs (id),
    email       text NOT NULL CHECK (char_length(email) BETWEEN 3 AND 320 AND email = lower(email)),
    name        text NOT NULL DEFAULT '' CHECK (char_length(name) <= 200),
    role        text NOT NULL CHECK (role IN ('admin', 'developer', 'read_only')),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    issuer      text NOT NULL DEFAULT '',
    subject     text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((issuer = '') = (subject = ''))
);
CREATE UNIQUE INDEX users_by_email ON users (email, coalesce(org_id, '00000000-0000-0000-0000-000000000000'));
CREATE INDEX users_by_org ON users (org_id, id);
CREATE INDEX users_by_subject ON users (subject, issuer) WHERE subject <> '';
